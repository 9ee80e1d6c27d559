"""The vendor's HY-WorldPlay: its two modes, its trunk and diffusers', its choice of memory, and its port's faults."""

import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from waypoint_parity.candidate.hy_worldplay_diffusers.adapter import HyWorldPlayDiffusersAdapter
from waypoint_parity.fixtures.faults.hy_worldplay import (
    FAULTS,
    PUBLIC,
    STAGE,
    SUITE,
    long_chunk,
    no_memory,
    noisy_memory,
    scaled_twice,
    together,
)
from waypoint_parity.fixtures.golden_hy_worldplay import checkpoint_in, scenario_of
from waypoint_parity.fixtures.tiny_hy_worldplay import write_hy_worldplay
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.scorecard.bench import Bench
from waypoint_parity.harness.explain.scorecard.fault import Change, Fault
from waypoint_parity.harness.families.hy_worldplay.scenario import made, with_steps
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Taps, decoded_pictures
from waypoint_parity.reference.hy_worldplay.adapter import UNCACHED, HyWorldPlayAdapter

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hyvideo") is None, reason="needs HY-WorldPlay in WAYPOINT_OFFICIAL_PATH"
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SUITE, tmp_path_factory.mktemp("hy"))


def vendor(checkpoint: Checkpoint, *options: str) -> HyWorldPlayAdapter:
    return HyWorldPlayAdapter(checkpoint, Numerics(torch.float32, CPU, options=options))


def seen(adapter: Adapter, scenario: Scenario, checkpoint: Checkpoint, *sites: str) -> dict[Key, torch.Tensor]:
    found: dict[Key, torch.Tensor] = {}

    def keep(shown: Observation) -> None:
        found[shown.key] = shown.tensor.clone()

    watched = {name: site for name, site in adapter.sites().items() if name in sites}
    with Taps(watched, keep, replaces=False) as taps:
        run(adapter, scenario, checkpoint, taps)
    return found


def test_the_two_modes_are_near_and_not_equal(tmp_path: Path) -> None:
    # Behind one block they are equal: only what a block makes of the memory differs.
    checkpoint = open_checkpoint(write_hy_worldplay(tmp_path / "hy"))
    scenario = with_steps(made(checkpoint.geometry, name="modes", seed=3, units=2), checkpoint.geometry, "1")
    cached, together = (
        seen(vendor(checkpoint, *options), scenario, checkpoint, "velocity") for options in ((), (UNCACHED,))
    )
    assert cached.keys() == together.keys()
    errors = {key.unit: (cached[key] - together[key]).norm() / cached[key].norm() for key in cached if key.step == 0}
    assert errors[0] == 0
    assert 1e-3 < errors[1] < 1e-1


def test_the_trunk_is_diffusers(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "hy")
    scenario, sites = scenario_of(checkpoint), ("velocity", "blocks.0", "latent")
    ours = seen(vendor(checkpoint, UNCACHED), scenario, checkpoint, *sites)
    theirs = HyWorldPlayDiffusersAdapter(checkpoint, Numerics(torch.float32, CPU))
    found = seen(theirs, scenario, checkpoint, *sites)
    assert ours.keys() == found.keys()
    assert all((found[key] - ours[key]).norm() <= 1e-6 * ours[key].norm() for key in ours)


def test_unchanged_they_agree(bench: Bench) -> None:
    comparison = bench.compare(bench.case(STAGE, []))
    assert comparison.verdict is Verdict.IDENTICAL
    assert comparison.compared == comparison.expected


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_seen_first_where_it_is(bench: Bench, fault: Fault) -> None:
    comparison = bench.compare(bench.case(STAGE, [fault.change]))
    assert comparison.first is not None
    if comparison.verdict is Verdict.INCOMPARABLE:
        assert comparison.reason is not None
        assert fault.first.site in comparison.reason
        return
    assert (comparison.verdict, comparison.first.key) == (Verdict.DIVERGED, fault.first.key)


@pytest.mark.slow
def test_all_of_the_public_ports_mistakes_are_named_at_once(bench: Bench) -> None:
    blamed = bench.blame(bench.case(STAGE, PUBLIC))
    assert {cause.part for cause in blamed.causes} == {
        "chunk length",
        "memory selection",
        "memory timestep",
        "picture",
    }


@pytest.mark.slow
def test_every_mend_of_the_public_port_brings_its_pictures_nearer(bench: Bench) -> None:
    case = bench.case(STAGE, [])

    def pictures(faults: Sequence[Change]) -> list[npt.NDArray[np.uint8]]:
        adapter = vendor(case.checkpoint)
        together(*faults)(adapter)
        with decoded_pictures(adapter, case.checkpoint.family) as shown:
            run(adapter, case.scenario, case.checkpoint)
        return shown

    right, left, means = pictures([]), [*PUBLIC], []
    for mended in (None, scaled_twice, long_chunk, no_memory, noisy_memory):
        left = [fault for fault in left if fault is not mended]
        pairs = zip(pictures(left), right, strict=True)
        means.append(np.mean([np.abs(found.astype(int) - wanted).mean() for found, wanted in pairs]))
    assert all(before > after for before, after in pairwise(means)), means
    assert means[-1] == 0


@pytest.mark.slow
def test_a_long_session_chooses_its_memory(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_hy_worldplay(tmp_path / "hy", num_layers=1))
    scenario = with_steps(made(checkpoint.geometry, name="long", seed=3, units=6), checkpoint.geometry, "1")
    shown = seen(vendor(checkpoint), scenario, checkpoint, "memory.latents")
    held = {key.unit: [number for number, each in enumerate(values.tolist()) if each] for key, values in shown.items()}
    assert {unit: held[unit] for unit in range(1, 5)} == {unit: list(range(4 * unit)) for unit in range(1, 5)}
    # The last twelve, and one of the two fours before them.
    assert held[5] in ([*range(4), *range(8, 20)], [*range(4, 20)])
    with pytest.raises(UserError):
        seen(vendor(checkpoint, UNCACHED), made(checkpoint.geometry, name="longer", seed=3, units=7), checkpoint)
