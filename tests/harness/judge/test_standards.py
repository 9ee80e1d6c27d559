from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harness.judge.noise_floor.test_document import SIGMAS, noise_floor, session_floor
from tests.harness.observations import FAMILY
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE
from waypoint_parity.harness.judge.judgement import Tolerance, fixed_tolerance
from waypoint_parity.harness.judge.noise_floor.document import FloorBounds, floor_path, write_floor
from waypoint_parity.harness.judge.standards import Standards, standards
from waypoint_parity.harness.run.scenario import Scenario


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder with a noise floor for fp32."""
    write_floor(noise_floor(), floor_path(tmp_path, "fp32"))
    return tmp_path


def judged(folder: Path | None, dtype: str = "fp32", digest: str = "c0ffee", **by: Any) -> Standards:
    return standards(FAMILY, dtype, folder=folder, digest=digest, **by)


def test_the_floor_that_travels_with_the_checkpoint_judges(checkpoint: Path) -> None:
    bounds = judged(checkpoint, false_alarm_rate=0.01).judgement(SIGMAS, []).bounds
    assert isinstance(bounds, FloorBounds)
    assert bounds.false_alarm_rate == 0.01
    assert bounds.session.given == []


def test_sessions_of_each_kind_have_their_own(checkpoint: Path) -> None:
    bounds = judged(checkpoint).judgement(SIGMAS, ["image"]).bounds
    assert isinstance(bounds, FloorBounds)
    assert bounds.session.given == ["image"]


def reason(found: Standards) -> str:
    bounds = found.judgement(SIGMAS, []).bounds
    assert isinstance(bounds, Tolerance)
    return bounds.reason


def test_without_a_floor_the_fixed_tolerance_judges_and_says_so(checkpoint: Path, tmp_path: Path) -> None:
    assert reason(judged(None)) == "the checkpoint has no noise floor"
    assert reason(judged(tmp_path / "nowhere")) == "the checkpoint has no noise floor"
    assert reason(judged(checkpoint, dtype="bf16")) == "the checkpoint has no noise floor"
    assert "another checkpoint" in reason(judged(checkpoint, digest="another"))


def test_a_schedule_that_the_floor_lacks_is_judged_by_the_fixed_tolerance(checkpoint: Path) -> None:
    bounds = judged(checkpoint).judgement([1.0, 0.0], []).bounds
    assert isinstance(bounds, Tolerance)
    assert "no session without optional fields under these sigmas" in bounds.reason


def test_a_given_tolerance_judges_before_any_floor(checkpoint: Path) -> None:
    bounds = judged(checkpoint, tolerance=1e-4).judgement(SIGMAS, []).bounds
    pictures = fixed_tolerance(FAMILY, "fp32").pictures
    assert bounds == Tolerance(1e-4, pictures, "--tolerance", ("frame",), statistics=1e-4)


def test_a_floor_that_is_named_must_be_of_this_checkpoint_and_dtype(checkpoint: Path) -> None:
    named = floor_path(checkpoint, "fp32")
    assert judged(None, floor=named).floor == noise_floor()
    for other in ({"digest": "another"}, {"dtype": "bf16"}):
        with pytest.raises(UserError, match="noise floor of other runs"):
            judged(None, floor=named, **other)
    with pytest.raises(UserError, match="cannot be read"):
        judged(None, floor=checkpoint / "none.json")


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_false_alarm_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(UserError, match="no false-alarm rate"):
        judged(None, false_alarm_rate=rate)


def test_what_may_differ_or_lack_goes_into_the_judgement() -> None:
    found = judged(None, accepted_inputs=("sigma",), allowed_missing=("decoder.*",))
    judgement = found.judgement(SIGMAS, [])
    assert (judgement.accepted_inputs, judgement.allowed_missing) == (("sigma",), ("decoder.*",))


def test_a_session_of_other_fields_than_any_of_the_floor_is_judged_by_the_fixed_tolerance(checkpoint: Path) -> None:
    bounds = judged(checkpoint).judgement(SIGMAS, ["image", "prompt_emb"]).bounds
    assert isinstance(bounds, Tolerance)
    assert "no session with image, prompt_emb under these sigmas" in bounds.reason


def test_a_scenario_is_judged_as_the_session_that_it_makes(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    """By its own schedule, else the checkpoint's, and by the optional fields that it has."""
    fields = ["prompt_emb", "prompt_pad_mask"]
    floor = noise_floor(sessions=[session_floor(given=fields)])
    found = Standards(fixed_tolerance(FAMILY, "fp32"), floor)
    assert isinstance(found.judgement_of(tiny_scenario, tiny).bounds, FloorBounds)
    image = torch.zeros(IMAGE_SHAPE, dtype=torch.uint8)
    for other in (tiny_scenario.with_tensors(image=image), tiny_scenario.with_tensors(sigmas=torch.tensor([1.0, 0.0]))):
        assert isinstance(found.judgement_of(other, tiny).bounds, Tolerance)
