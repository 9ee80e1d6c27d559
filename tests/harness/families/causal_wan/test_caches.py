"""The rolling window, told slot by slot: what two sides hold, where they part, what a dump says of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from waypoint_parity.fixtures.tiny_causal_wan import write_causal_wan
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.caches import EMPTY, WindowCaches, WindowComparison
from waypoint_parity.harness.families.causal_wan.family import FAMILY
from waypoint_parity.harness.judge.diff import open_dump, slot_faults
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.family import MarksTold
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

CACHES = WindowCaches()
KEYS, WINDOW, KV = "blocks.1.self_attn.k_rope", "blocks.1.self_attn.window", "kv_cache.layers.1.kv"
SLOTS, TOKENS = 3, 2


def keys_of(latent: int, step: int) -> Tensor:
    """The keys [1,1,T,H,D] of a latent, as of a step."""
    return torch.full((1, 1, TOKENS, 1, 4), float(1 + 10 * latent + step))


def window_of(held: Sequence[Tensor]) -> Tensor:
    keys = torch.cat(list(held), dim=1)
    return torch.stack([keys, torch.zeros_like(keys)])


def shown(site: str, at: tuple[int, str, int], tensor: Tensor) -> object:
    key = Key(*at, site)
    return CACHES.sign(key, "torch.float32", None, CACHES.marks(site, tensor, []))


def session(sink: int) -> list[object]:
    """Chunks of one latent, each in a step and a clean pass, over a window of three whose first slots stay."""
    signs: list[object] = []
    held: list[Tensor] = []
    for unit in range(5):
        for phase, step in (("denoise", 0), ("clean", 1)):
            new = keys_of(unit, step)
            if phase == "clean":
                held[-1] = new
            else:
                held = [*held[:sink], *held[sink + 1 :], new] if len(held) == SLOTS else [*held, new]
            at = (unit, phase, 0)
            signs += [shown(KEYS, at, new), shown(WINDOW, at, window_of(held))]
        empty = [torch.zeros_like(held[0])] * (SLOTS - len(held))
        signs.append(shown(KV, (unit, "clean", 0), window_of([*held, *empty])))
    return signs


def compared(reference: list[object], candidate: list[object], **told: bool) -> WindowComparison:
    comparison = CACHES.comparison([], teacher_forced=told.get("teacher_forced", False))
    for order, (expected, actual) in enumerate(zip(reference, candidate, strict=True)):
        comparison.reference(order, expected)  # type: ignore[arg-type]
        comparison.candidate(actual)  # type: ignore[arg-type]
    return comparison


def test_two_that_do_the_same_have_no_fault() -> None:
    assert compared(session(1), session(1)).faults == []


def test_a_wrong_slot_after_an_eviction_is_named_by_what_it_holds() -> None:
    first = compared(session(1), session(0)).faults[0]
    assert (first.cache, first.unit, first.phase, first.slot) == ("kv_cache.layers.1", 3, "denoise", 0)
    assert first.message.endswith("slot 0 holds latent 1, expected latent 0")


def test_keys_of_a_step_are_told_from_those_of_the_clean_pass() -> None:
    right = session(1)
    stale = [*right[:3], shown(WINDOW, (0, "clean", 0), window_of([keys_of(0, 0)])), *right[4:]]
    (fault,) = compared(right, stale).faults
    assert "latent 0 as of denoise step 0" in fault.message


def test_a_candidate_that_is_given_the_references_keys_is_told_by_them() -> None:
    right = session(1)
    # Its own keys are others; what it holds from the second chunk on are the reference's.
    own = [shown(KEYS, (0, "denoise", 0), keys_of(90, 0)), *right[1:2], shown(KEYS, (0, "clean", 0), keys_of(91, 0))]
    assert compared(right, [*own, *right[3:]], teacher_forced=True).faults == []


@pytest.mark.parametrize(
    ("marks", "is_right"),
    [(["a", "b", EMPTY], True), (["a", "a", EMPTY], False), (["a", "b", "c"], False), (["a", "b"], False)],
)
def test_words_that_cannot_be_of_a_window_are_refused(marks: list[str], is_right: bool) -> None:
    tensor = window_of([keys_of(0, 0), keys_of(1, 0), torch.zeros_like(keys_of(0, 0))])
    told = MarksTold(KV, marks, list(tensor.shape), {}, None)
    assert (CACHES.wrong_marks(told, tensor, []) is None) == is_right


def test_observations_without_words_tell_nothing() -> None:
    silent = [CACHES.sign(Key(0, "denoise", 0, site), "torch.float32", "digest", None) for site in (KEYS, WINDOW)]
    right = session(1)
    assert compared([*silent, *right], [*silent, *session(0)]).faults == compared(right, session(0)).faults


def test_words_of_another_site_are_refused() -> None:
    assert CACHES.wrong_marks(MarksTold("blocks.1", ["a"], [1], {}, None), None, []) is not None


class Rolling:
    """Shows keys and windows of one layer, and computes nothing else: four slots, of which `sink` stay."""

    sink = 1

    def __init__(self, *_: object) -> None:
        self._probes = {name: nn.Identity() for name in (KEYS, WINDOW)}

    def describe(self) -> dict[str, str]:
        return {"version": "0"}

    def sites(self) -> Mapping[str, Site]:
        return {name: Site(probe) for name, probe in self._probes.items()}

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        held: list[Tensor] = []
        for unit in range(scenario.units):
            for step, at in enumerate((Pass("denoise"), Pass("clean"))):
                yield unit, at
                new = self._probes[KEYS](keys_of(unit, step))
                if step:
                    held[-1] = new
                else:
                    held = [*held[: self.sink], *held[self.sink + 1 :], new] if len(held) == 4 else [*held, new]
                self._probes[WINDOW](window_of(held))


class WithoutSink(Rolling):
    sink = 0


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("windows")
    checkpoint = open_checkpoint(write_causal_wan(folder / "tiny"))
    scenario = checkpoint.family.make(checkpoint.geometry, name="rolling", seed=1, units=6)
    numerics, chosen = Numerics(torch.float32, torch.device("cpu")), Selection(sites=(KEYS, WINDOW))
    for kind in (Rolling, WithoutSink):
        adapter = kind()
        manifest = describe_run(kind.__name__, adapter, numerics, checkpoint, scenario, selection=chosen)
        with (
            DumpWriter(folder / kind.__name__, manifest) as writer,
            recording(adapter.sites(), writer, chosen) as recorder,
        ):
            run(adapter, scenario, checkpoint, recorder)
    return {kind.__name__: folder / kind.__name__ for kind in (Rolling, WithoutSink)}


def test_a_dump_tells_what_every_slot_held(dumps: dict[str, Path]) -> None:
    (table,) = CACHES.tables(dumps["Rolling"])
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    assert table.columns == ["chunk", "pass", "slot 0", "slot 1", "slot 2", "slot 3", "evicted"]
    assert rows["0", "denoise 0"] == ["*0@0", ".", ".", ".", ""]
    assert rows["4", "denoise 0"] == ["0", "*2", "*3", "*4@0", "1"]
    assert rows["5", "clean 0"] == ["0", "3", "4", "*5", ""]
    lines = CACHES.lines(dumps["Rolling"], 1)
    assert len(lines) == 1 + 1 + len(rows) + 2


def test_two_dumps_are_told_apart_by_their_slots(dumps: dict[str, Path]) -> None:
    faults = slot_faults(open_dump(dumps["Rolling"]), open_dump(dumps["WithoutSink"]), FAMILY)
    assert (faults[0].unit, faults[0].slot) == (4, 0)
    assert "holds latent 1, expected latent 0" in faults[0].message
    (table,) = CACHES.tables(dumps["WithoutSink"], faults)
    marked = {(table.rows[number][0], name) for number, name in table.marks}
    assert ("4", "slot 0") in marked
    assert not any(chunk < "4" for chunk, _ in marked)


@pytest.mark.parametrize("layer", [0, 7])
def test_a_layer_that_was_not_recorded_is_refused(dumps: dict[str, Path], layer: int) -> None:
    with pytest.raises(UserError):
        CACHES.lines(dumps["Rolling"], layer)
