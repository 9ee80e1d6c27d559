"""The ring against the specification's rules, followed literally frame by frame."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.candidate.literal import LiteralRing
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.kv_cache import RingCache, Window, WindowTable, remember, ring_shape

RINGS = [(4, 1), (1, 1), (8, 2), (6, 3), (8, 8), (12, 4)]
FRAMES = 30


def stamp(config: WaypointConfig, clock: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Keys and values [1,G,T,D] that tell their frame (and how noisy the pass was); values are the keys negated."""
    k = torch.full((1, config.n_kv_heads, config.tokens, config.head_dim), clock + 1 + noise)
    return k, -k


def session(config: WaypointConfig, cache: RingCache) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(clock, keys in sight, values in sight) in the cache pass of each frame; a noisy pass comes before it."""
    windows = WindowTable(cache.shape, config.tokens, torch.device("cpu"))
    for clock in range(FRAMES):
        remember(cache.ring, *stamp(config, clock, noise=0.5), windows.at(clock))
        yield clock, *remember(cache.ring, *stamp(config, clock), windows.at(clock))


@pytest.fixture(params=RINGS, ids=str)
def ring(request: pytest.FixtureRequest, config: WaypointConfig) -> tuple[LiteralRing, RingCache]:
    frames, dilation = request.param
    geometry = dataclasses.replace(config, global_window=frames, global_pinned_dilation=dilation)
    cache = RingCache(geometry, 0, torch.float32, torch.device("cpu"))
    cache.ring.fill_(torch.nan)  # what an earlier session left behind: nobody may see it
    return LiteralRing(frames, dilation), cache


def test_a_frame_sees_exactly_what_the_rules_show_it(
    ring: tuple[LiteralRing, RingCache], config: WaypointConfig
) -> None:
    literal, cache = ring
    for clock, keys, values in session(config, cache):
        frames = keys[0, 0, :: config.tokens, 0] - 1
        assert sorted(frames.tolist()) == sorted(literal.visible(clock)), clock
        assert torch.equal(values, -keys)
        literal.cache_pass(clock)


def test_keys_and_values_in_sight_are_views_of_the_ring(
    ring: tuple[LiteralRing, RingCache], config: WaypointConfig
) -> None:
    _, cache = ring
    for _, keys, values in session(config, cache):
        assert keys.data_ptr() == cache.ring[0].data_ptr()
        assert values.data_ptr() == cache.ring[1].data_ptr()


def test_the_official_layout_has_slots_in_order_zeros_and_the_tail(
    ring: tuple[LiteralRing, RingCache], config: WaypointConfig
) -> None:
    literal, cache = ring
    for clock, _, _ in session(config, cache):
        literal.cache_pass(clock)
        official = cache.official_kv(cache.ring, clock)
        assert official.shape == (2, 1, config.n_kv_heads, (literal.frames + 1) * config.tokens, config.head_dim)
        stamps = [0 if frame is None else frame + 1 for frame in [*literal.slots, clock]]
        assert official[0, 0, 0, :: config.tokens, 0].tolist() == stamps
        assert torch.equal(official[1], -official[0])
        written = [frame is not None for frame in literal.slots] + [True]
        assert cache.official_written(clock).view(-1, config.tokens).all(1).tolist() == written
        assert cache.official_written(clock).view(-1, config.tokens).any(1).tolist() == written


def test_what_a_window_shows_is_told_in_the_official_layout(
    ring: tuple[LiteralRing, RingCache], config: WaypointConfig
) -> None:
    literal, cache = ring
    windows = WindowTable(cache.shape, config.tokens, torch.device("cpu"))
    for clock in range(FRAMES):
        mask = cache.official_visible(windows.at(clock)).view(-1, config.tokens)
        seen = literal.visible(clock) - {clock}
        assert mask.all(1).tolist() == mask.any(1).tolist() == [*(frame in seen for frame in literal.slots), True]
        literal.cache_pass(clock)


def test_a_wrong_window_shows(config: WaypointConfig) -> None:
    cache = RingCache(config, 1, torch.float32, torch.device("cpu"))
    rows = torch.arange((cache.shape.slots + 1) * config.tokens).view(-1, config.tokens)
    for window, visible in (
        (Window(rows[4], 5 * config.tokens), [True, True, True, True, True]),  # nothing hidden, in frame 4
        (Window(rows[0], 3 * config.tokens), [False, True, True, False, True]),  # slot 3 out of sight
        (Window(rows[3], 3 * config.tokens), [True, True, True, False, False]),  # nor the frame itself
    ):
        assert cache.official_visible(window)[:: config.tokens].tolist() == visible


def test_a_window_can_be_made_of_what_it_shows(config: WaypointConfig) -> None:
    for layer in range(2):
        cache = RingCache(config, layer, torch.float32, torch.device("cpu"))
        windows = WindowTable(cache.shape, config.tokens, torch.device("cpu"))
        for clock in range(FRAMES):
            right = windows.at(clock)
            brought_back = cache.native_window(cache.official_visible(right), windows.at(0))
            assert torch.equal(brought_back.rows, right.rows)
            assert brought_back.length == right.length


def test_the_official_layout_can_be_brought_back(ring: tuple[LiteralRing, RingCache], config: WaypointConfig) -> None:
    _, cache = ring
    other = RingCache(config, 0, torch.float32, torch.device("cpu"))
    other.shape = cache.shape
    for clock, _, _ in session(config, cache):
        official = cache.official_kv(cache.ring, clock)
        blank = torch.zeros_like(cache.ring)
        native = other.native_kv(official, blank, clock)
        assert torch.equal(other.official_kv(native, clock), official)
        assert not blank.any()


def test_lengths_settle_once_the_ring_is_full(config: WaypointConfig) -> None:
    for dilated, settled in ((False, {4}), (True, {4, 5})):
        table = WindowTable(ring_shape(config, dilated=dilated), config.tokens, torch.device("cpu"))
        assert {table.at(clock).length // config.tokens for clock in range(16, 40)} == settled


def test_what_the_kv_probe_hands_back_becomes_the_ring(config: WaypointConfig) -> None:
    cache = RingCache(config, 0, torch.float32, torch.device("cpu"))
    other = torch.ones_like(cache.ring)
    cache.kv.register_forward_hook(lambda module, inputs, output: other)
    cache.observe(0)
    assert cache.ring is other
