from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.harness.explain.blame import candidates
from tests.harness.explain.blame.candidates import LOUD
from tests.harness.explain.blame.conftest import Cases
from tests.harness.observations import FAMILY, JUDGEMENT
from waypoint_parity.fixtures.faults.inputs import three_steps
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.explain.blame.case import Case
from waypoint_parity.harness.explain.blame.exchanges import Exchange, exchange_called
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.pictures import difference
from waypoint_parity.harness.explain.blame.runs import (
    free_run,
    gain_run,
    local_run,
    mended_pictures,
    mended_run,
    pictures_in,
    spoilt_pictures,
)
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.run.keys import At

Frames = tuple[list[Pixels], list[Pixels]]


def called(*names: str) -> list[Exchange]:
    return [exchange_called(name, [name], FAMILY) for name in names]


@pytest.fixture(scope="module")
def faulty(case: Cases) -> Case:
    """A candidate that is too fast and in block 1 too loud."""
    return case(candidates.faster, candidates.louder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, faulty: Case) -> Path:
    """Where the free-running sessions have left their pictures."""
    folder = tmp_path_factory.mktemp("free")
    free = free_run(faulty, folder)
    assert free.comparison.verdict is Verdict.DIVERGED
    assert free.difference == difference(*reversed(pictures_in(folder)))
    assert free.difference is not None
    assert free.difference.mean_abs > 1
    return folder


@pytest.fixture(scope="module")
def frames(folder: Path) -> Frames:
    return pictures_in(folder)


def test_the_pictures_of_the_free_sessions_are_kept_side_by_side(frames: Frames) -> None:
    right, wrong = frames
    assert [frame.shape for frame in (*right, *wrong)] == [(360, 640, 3)] * 2
    assert not np.array_equal(right[0], wrong[0])


def test_a_local_run_tells_the_parts_at_fault_and_the_ladder(faulty: Case, noise: Noise) -> None:
    found = local_run(faulty, noise, [])
    assert [(finding.part, finding.blocks) for finding in found.findings] == [("mlp", [1]), ("velocity", None)]
    wrong = {rung.site for rung in found.sites if rung.local is None or rung.local > rung.bound}
    assert wrong == {LOUD, "velocity"}
    # Every site once in every step: the worst of all frames.
    rungs = [(rung.phase, rung.step, rung.site) for rung in found.sites]
    assert len(set(rungs)) == len(rungs)
    assert found.alone == []


def test_what_is_exchanged_is_no_longer_wrong(faulty: Case, noise: Noise) -> None:
    found = local_run(faulty, noise, called("velocity"))
    assert [finding.part for finding in found.findings] == ["mlp"]


def test_a_mended_session_tells_what_is_left(faulty: Case, frames: Frames) -> None:
    whole = mended_run(faulty, called("velocity", "mlp"), frames[0], [])
    assert (whole.left, whole.refused) == (None, [])
    assert whole.difference is not None
    assert whole.difference.mean_abs < 0.05
    half = mended_run(faulty, called("velocity"), frames[0], [])
    assert str(half.left).startswith(f"{LOUD} at unit 0, denoise step 0")


def test_passes_that_are_not_both_sides_are_not_left(case: Cases, frames: Frames) -> None:
    # The schedule is an input, and there is no score where an input differs unless it is accepted.
    accepted = Judgement(JUDGEMENT.bounds, accepted_inputs=("sigma",))
    longer = case(three_steps, judgement=accepted)
    assert mended_run(longer, called("input.schedule"), frames[0], [At(0, "denoise", 2)]).left is None
    assert mended_run(longer, called("input.schedule"), frames[0], []).left is not None


def test_the_pictures_of_an_exchange_are_held_against_those_of_the_side_that_it_comes_from(
    faulty: Case, frames: Frames
) -> None:
    right, wrong = frames
    before = difference(wrong, right)
    assert before is not None
    for run, expected in ((mended_pictures, right), (spoilt_pictures, wrong)):
        whole = run(faulty, called("velocity", "mlp"), expected).difference
        nothing = run(faulty, called("decoder"), expected).difference
        assert whole is not None
        assert nothing is not None
        assert whole.mean_abs < 0.05
        assert nothing.mean_abs == pytest.approx(before.mean_abs, rel=0.01)


def test_a_gain_is_the_reference_s(faulty: Case, case: Cases) -> None:
    assert gain_run(faulty, "velocity") == gain_run(case(), "velocity")
    assert gain_run(faulty, "input.timestamp").gain is None


def test_what_a_run_showed_comes_back_from_its_json(faulty: Case, noise: Noise) -> None:
    found = local_run(faulty, noise, [])
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found
