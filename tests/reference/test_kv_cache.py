from dataclasses import replace

import pytest
import torch

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.reference.eager.kv_cache import RingCache

CPU = torch.device("cpu")

GLOBAL, LOCAL = 0, 1
ROWS = torch.tensor([0, 1])  # of slot 0


@pytest.fixture
def tiny(config: TransformerConfig) -> TransformerConfig:
    """Two tokens a frame; local ring of 3 frames, global ring of 6 with dilation 2, so 3 slots of its 6 are used."""
    return replace(config, height=1, width=2, tokens_per_frame=2, local_window=3, global_window=6)


def ring(config: TransformerConfig, layer: int) -> RingCache:
    cache = RingCache(config, layer)
    cache.reset(CPU, torch.float32)
    return cache


def run(cache: RingCache, frame: int) -> list[int]:
    """Pass a frame whose keys and values all read frame + 1, commit it, return the frames that it saw."""
    k = torch.full((1, cache.n_kv_heads, cache.tokens, cache.head_dim), float(frame + 1))
    keys, values = cache.see(frame, k, -k)
    cache.commit(frame)
    assert keys.equal(-values)
    return [int(key) - 1 for key in keys[0, 0, :: cache.tokens, 0]]


def test_a_local_layer_sees_the_frames_of_its_window_less_the_one_it_replaces(tiny: TransformerConfig) -> None:
    cache = ring(tiny, LOCAL)
    seen = [run(cache, frame) for frame in range(5)]
    assert [sorted(frames) for frames in seen] == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_a_dilated_layer_sees_every_second_frame_and_hides_a_slot_on_write_frames_only(tiny: TransformerConfig) -> None:
    cache = ring(tiny, GLOBAL)
    seen = [sorted(run(cache, frame)) for frame in range(9)]
    assert seen == [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 4], [0, 2, 4, 5], [2, 4, 6], [2, 4, 6, 7], [4, 6, 8]]


def test_the_slot_is_rounded_up_and_wraps(tiny: TransformerConfig) -> None:
    assert [ring(tiny, LOCAL).slot(frame) for frame in range(5)] == [0, 1, 2, 0, 1]
    assert [ring(tiny, GLOBAL).slot(frame) for frame in range(7)] == [0, 1, 1, 2, 2, 0, 0]


def test_the_current_frame_comes_last_and_replaces_its_earlier_pass(tiny: TransformerConfig) -> None:
    cache = ring(tiny, LOCAL)
    run(cache, 0)
    first, second = torch.randn(2, 2, 1, cache.n_kv_heads, cache.tokens, cache.head_dim)
    cache.see(1, *first)
    keys, values = cache.see(1, *second)
    assert keys.shape[2] == 2 * cache.tokens
    assert keys[:, :, -cache.tokens :].equal(second[0])
    assert values[:, :, -cache.tokens :].equal(second[1])


def test_a_pass_without_commit_leaves_the_ring_alone(tiny: TransformerConfig) -> None:
    cache = ring(tiny, LOCAL)
    run(cache, 0)
    before = cache.ring.clone(), cache.ring_written.clone()
    cache.see(1, *torch.randn(2, 1, cache.n_kv_heads, cache.tokens, cache.head_dim))
    assert cache.ring.equal(before[0])
    assert cache.ring_written.equal(before[1])


def test_slots_that_nothing_may_see_can_hold_anything(tiny: TransformerConfig) -> None:
    clean, poisoned = ring(tiny, GLOBAL), ring(tiny, GLOBAL)
    poisoned.ring = torch.full_like(poisoned.ring, torch.nan)
    assert [run(clean, frame) for frame in range(9)] == [run(poisoned, frame) for frame in range(9)]


def test_state_is_shown_after_a_commit_with_unused_slots_empty_and_the_tail_last(tiny: TransformerConfig) -> None:
    cache, shown = ring(tiny, GLOBAL), []
    for probe in (cache.kv, cache.written):
        probe.register_forward_hook(lambda module, inputs, output: shown.append(output))
    run(cache, 0)
    run(cache, 1)
    written, kv = shown[2:]
    assert kv.shape == (2, 1, cache.n_kv_heads, 6 * 2 + 2, cache.head_dim)
    assert kv[0, 0, 0, :, 0].tolist() == [1, 1, *[0] * 10, 2, 2]
    assert written.tolist() == [True, True, *[False] * 10, True, True]


def test_what_a_frame_sees_is_shown_in_every_pass_with_the_tail_last(tiny: TransformerConfig) -> None:
    cache, shown = ring(tiny, GLOBAL), []
    cache.visible.register_forward_hook(lambda module, inputs, mask: shown.append(mask[:: cache.tokens].tolist()))
    for frame in range(7):
        run(cache, frame)
    assert shown == [
        # Frame 6 replaces slot 0, and does not see it.
        *[[slot < written for slot in range(6)] + [True] for written in (0, 1, 1, 2, 2, 3)],
        [False, True, True, False, False, False, True],
    ]


def test_what_is_seen_is_what_the_probe_returns(tiny: TransformerConfig) -> None:
    cache = ring(tiny, LOCAL)
    run(cache, 0)
    cache.visible.register_forward_hook(lambda module, inputs, mask: torch.zeros_like(mask).index_fill(0, ROWS, True))
    assert run(cache, 1) == [0]


def test_what_a_probe_returns_is_the_state_from_then_on(tiny: TransformerConfig) -> None:
    cache = ring(tiny, LOCAL)
    cache.kv.register_forward_hook(lambda module, inputs, output: output + 4)
    cache.written.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    run(cache, 0)
    assert cache.ring[0, 0, 0, 0, 0] == 5
    assert run(cache, 1) == [1]


def test_what_was_shown_does_not_change_later(tiny: TransformerConfig) -> None:
    cache, shown = ring(tiny, LOCAL), []
    cache.kv.register_forward_hook(lambda module, inputs, output: shown.append((output, output.clone())))
    for frame in range(4):
        run(cache, frame)
    assert all(held.equal(copy) for held, copy in shown)


def test_reset_forgets_every_frame(tiny: TransformerConfig) -> None:
    cache = ring(tiny, LOCAL)
    run(cache, 0)
    cache.reset(CPU, torch.float32)
    assert run(cache, 1) == [1]
