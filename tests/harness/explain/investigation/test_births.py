"""The seeded faults are born where they were put: a good part of the suite, on its own stages cut short."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness.explain.investigation.cells import run_cell
from waypoint_parity.fixtures.faults import SUITE
from waypoint_parity.fixtures.faults.stages import TWO, session_of
from waypoint_parity.harness.explain.blame.case import Case
from waypoint_parity.harness.explain.investigation.result import Birth, Birthplace
from waypoint_parity.harness.explain.scorecard.bench import Bench

FAULTS = {fault.name: fault for fault in SUITE.faults}
ONE = replace(TWO, name="one frame", scenario=session_of(1))
# Faults of the first frame show in a session of one; of the others the second frame is the first that is wrong.
BORN: dict[str, tuple[int, Birthplace]] = {
    "noise-sliced": (1, "input"),
    "euler-x0": (1, "sampler"),
    "latent-renorm": (2, "sampler"),
    "rope-xy": (1, "transformer"),
    "attn-causal-in-frame": (1, "transformer"),
    "unpatchify-order": (1, "transformer"),
    "cache-pass-skipped": (2, "cache"),
    "cache-slot-floor": (2, "cache"),
    "vae-scale": (1, "decoder"),
    "vae-order": (1, "decoder"),
    "vae-clamp": (1, "after the decoder"),
}
Seeded = Callable[..., Case]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SUITE, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def seeded(bench: Bench) -> Seeded:
    def case(*names: str, frames: int = 1) -> Case:
        return bench.case(ONE if frames == 1 else TWO, [FAULTS[name].change for name in names])

    return case


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, Birth]]:
    births: dict[str, Birth] = {}
    yield births
    print(f"\n{'fault':22} {'part':20} {'born in':18} the strongest evidence")
    for name, birth in births.items():
        print(f"{name:22} {FAULTS[name].part:20} {birth.place:18} {birth.because[0]}")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", BORN)
def test_a_seeded_fault_is_born_where_it_was_put(
    name: str, seeded: Seeded, table: dict[str, Birth], tmp_path: Path
) -> None:
    frames, place = BORN[name]
    found = run_cell(seeded(name, frames=frames), tmp_path).investigate()
    assert found.birth is not None
    table[name] = found.birth
    assert (found.birth.place, found.not_crossed) == (place, None)


def test_of_two_faults_the_one_that_does_more_to_the_picture_is_named(seeded: Seeded, tmp_path: Path) -> None:
    found = run_cell(seeded("rope-xy", "vae-clamp"), tmp_path).investigate()
    assert found.birth is not None
    assert found.birth.place == "after the decoder"
    assert any("the latents are wrong" in sentence for sentence in found.birth.because)
