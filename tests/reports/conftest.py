"""What the tests of the documents share: real runs on the tiny checkpoint, one diverging and one not."""

import shutil
from pathlib import Path

import pytest
from filelock import FileLock

from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.families.waypoint.family import FAMILY
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.parity import run_parity
from waypoint_parity.reports.documents import write_documents
from waypoint_parity.reports.report import write_report

_FAULTY = Path(__file__).parents[1] / "parity" / "faulty.py"
STALE, COARSE, SCALED = (f"{_FAULTY}:{name}" for name in ("StaleSlotVisible", "Coarse", "VelocityScaled"))
TWO_FAULTS = f"{Path(__file__).parents[2] / 'fixtures' / 'examples' / 'two_faults.py'}:TwoFaults"
FRAMES = 3


@pytest.fixture(scope="session")
def walk(tiny: Checkpoint) -> Scenario:
    """Three frames: one more than the local ring of the tiny checkpoint holds."""
    return make_scenario(tiny.geometry, name="walk", units=FRAMES, seed=3, prompt_tokens=6, prompt_padding=2)


@pytest.fixture(scope="session")
def diverged(
    tiny: Checkpoint,
    walk: Scenario,
    fp32_on_cpu: Numerics,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Path:
    """The folder of a run in which one candidate of two diverges and was searched for the cause, with its report.

    Two files of tests read it: of several processes of one session the first one makes it.
    """
    base = tmp_path_factory.getbasetemp()
    out = (base.parent if hasattr(request.config, "workerinput") else base) / "diverged"
    with FileLock(f"{out}.lock"):
        if not (out / "report.html").exists():
            cells = tiny_cells(tiny, walk, fp32_on_cpu, implementations=("candidate", STALE), schedule=("single-step",))
            run_parity(tiny_run(tiny, out, exact=True, blame=True), cells)
            write_report(out)
    return out


@pytest.fixture(scope="session")
def unsearched(diverged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run as it is before any cause was searched, with its report."""
    run = tmp_path_factory.mktemp("unsearched") / "run"
    shutil.copytree(diverged, run)
    for blame in run.glob("cells/*/blame"):
        shutil.rmtree(blame)
    write_report(run)
    return run


@pytest.fixture(scope="session")
def incomparable(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run whose candidate runs under another schedule, with its report."""
    out = tmp_path_factory.mktemp("incomparable") / "run"
    run_parity(tiny_run(tiny, out), tiny_cells(tiny, tiny_scenario, fp32_on_cpu, implementations=(TWO_FAULTS,)))
    write_report(out)
    return out


@pytest.fixture(scope="session")
def second(fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of Waypoint 1.5, four pictures of each unit, which diverges; with its report."""
    folder = tmp_path_factory.mktemp("second")
    checkpoint = open_checkpoint(write_waypoint_15(folder / "checkpoint"))
    scenario = FAMILY.make(checkpoint.geometry, name="walk", seed=1, units=2)
    cells = tiny_cells(checkpoint, scenario, fp32_on_cpu, implementations=(SCALED,))
    run_parity(tiny_run(checkpoint, folder / "run"), cells)
    write_report(folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def holding(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run in which parity holds, with its report."""
    out = tmp_path_factory.mktemp("holding") / "run"
    run_parity(tiny_run(tiny, out, exact=True), tiny_cells(tiny, tiny_scenario, fp32_on_cpu, schedule=("single-step",)))
    write_report(out)
    return out


@pytest.fixture(scope="session")
def imprecise(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run whose candidate is right and less precise than it may be, with its documents."""
    out = tmp_path_factory.mktemp("imprecise") / "run"
    cells = tiny_cells(tiny, tiny_scenario, fp32_on_cpu, implementations=(COARSE,), schedule=("single-step",))
    write_documents(run_parity(tiny_run(tiny, out, exact=True), cells), out)
    return out


@pytest.fixture(scope="session")
def by_values(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run in which parity holds and exact values were not asked for, with its report."""
    out = tmp_path_factory.mktemp("by_values") / "run"
    cells = tiny_cells(tiny, tiny_scenario, fp32_on_cpu, schedule=("single-step",))
    run_parity(tiny_run(tiny, out), cells)
    write_report(out)
    return out
