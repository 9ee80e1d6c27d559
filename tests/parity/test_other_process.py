"""Sides in processes of their own: what is found of them is what is found in this one."""

import shlex
import sys
from pathlib import Path

import pytest

from tests.harness.observations import JUDGEMENT
from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.case import load_case
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.record.records import read_manifest
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.parity import run_parity

FAULTS = "waypoint_parity.fixtures.faults.ports"
# The least fault that a tolerance does not see: one site times 1 + 1e-7.
LOUDER = "tests.harness.sweep.test_exact_cell:Louder"


def elsewhere(implementation: str) -> str:
    return f"command: {shlex.join([sys.executable, '-m', 'waypoint_parity', 'worker', implementation])}"


class TestParity:
    @pytest.fixture
    def compared(self, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path):
        """Compares two implementations, each side followed exactly."""

        def compared(reference: str, candidate: str) -> tuple[Comparison, Path]:
            cells = tiny_cells(
                tiny, tiny_scenario, fp32_on_cpu, implementations=(candidate,), schedule=("single-step",)
            )
            summary = run_parity(tiny_run(tiny, tmp_path, reference=reference, exact=True), cells)
            ((name, cell),) = summary.cells.items()
            return summary.variants[name], tmp_path / cell.folder

        return compared

    def test_two_sides_elsewhere_are_the_same_mathematics_and_as_precise(self, compared) -> None:
        comparison, folder = compared(elsewhere("eager"), elsewhere("candidate"))
        assert comparison.verdict is Verdict.WITHIN_NOISE
        assert comparison.mathematics is not None
        assert comparison.mathematics.worst < 1e-12
        assert not any(comparison.mathematics.unfollowed.values())
        assert comparison.precision is not None
        assert comparison.precision.worst is not None
        assert comparison.precision.worst < 1
        assert read_manifest(folder / "candidate").description["process"].endswith("worker candidate")

    def test_a_tenth_of_a_millionth_is_named_at_its_site(self, compared) -> None:
        comparison, _ = compared("eager", elsewhere(LOUDER))
        assert comparison.verdict is Verdict.DIVERGED
        assert comparison.first is not None
        assert comparison.first.key.site == "transformer.blocks.1.mlp"


class TestBlame:
    @pytest.fixture
    def blamed(self, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path):
        def blamed(candidate: str) -> Blame:
            case = load_case("eager", candidate, tiny, fp32_on_cpu, tiny_scenario, JUDGEMENT)
            return Search(case, Journal(tmp_path / str(len(candidate)), case.identity), gains=False).run()

        return blamed

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("fault", ["attn-causal-in-frame", "ctrl-order", "vae-order"])
    def test_a_fault_has_the_causes_that_it_has_in_this_process(self, blamed, fault: str) -> None:
        here, there = blamed(f"{FAULTS}:{fault}"), blamed(elsewhere(f"{FAULTS}:{fault}"))
        assert here.causes
        assert [(cause.part, cause.blocks, cause.first) for cause in there.causes] == [
            (cause.part, cause.blocks, cause.first) for cause in here.causes
        ]
        assert there.comparison.first == here.comparison.first
        assert there.restored
