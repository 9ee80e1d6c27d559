"""The investigation of a cell, from its folder and the two implementations; and what blame adds to it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.explain.investigation.cells import CellRun, run_cell
from tests.harness.explain.investigation.values import blamed, crossed
from waypoint_parity.fixtures.faults.autoencoder import clamped
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.case import Case, load_case
from waypoint_parity.harness.explain.investigation.investigate import investigate_dumps, with_blame
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME, read_investigation
from waypoint_parity.harness.explain.scorecard.fault import Change
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.record.records import TENSORS_NAME, PictureAt, to_json
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import order_of

Made = Callable[..., Case]


@pytest.fixture(scope="module")
def case(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Made:
    """The case of the reference and the candidate with a change."""

    def made(change: Change | None = None) -> Case:
        judgement = Judgement(fixed_tolerance(tiny.family, "fp32"))
        return load_case("eager", "candidate", tiny, fp32_on_cpu, tiny_scenario, judgement, changed=change)

    return made


@pytest.fixture(scope="module")
def clamping(case: Made, tmp_path_factory: pytest.TempPathFactory) -> CellRun:
    """A cell that diverges after the decoder."""
    return run_cell(case(clamped), tmp_path_factory.mktemp("cell"))


def test_where_parity_holds_the_pictures_are_measured_and_nothing_was_born(case: Made, tmp_path: Path) -> None:
    cell = run_cell(case(), tmp_path)
    found = cell.investigate()
    assert cell.comparison.verdict is Verdict.WITHIN_NOISE
    assert [picture.metrics for picture in found.pictures] == cell.comparison.pictures
    assert [picture.metrics.bound for picture in found.pictures] == [
        cell.case.checkpoint.family.tolerances["fp32"][1]
    ] * 2
    steps = len(cell.case.checkpoint.geometry.transformer.scheduler_sigmas) - 1
    assert len(found.trajectory) == 2 * steps
    assert (found.crossing, found.not_crossed, found.birth) == ([], None, None)


def test_a_divergence_is_decoded_across_and_survives_its_file(clamping: CellRun, tmp_path: Path) -> None:
    found = clamping.investigate()
    assert len(found.crossing) == 2
    assert found.birth is not None
    assert found.birth.place == "after the decoder"
    file = tmp_path / INVESTIGATION_NAME
    file.write_bytes(to_json(found))
    assert read_investigation(file) == found


def test_from_dumps_alone_nothing_is_decoded_and_the_ladder_tells(clamping: CellRun) -> None:
    case = clamping.case
    order = order_of(case.scenario, case.checkpoint)
    found = investigate_dumps(clamping.folder, case.checkpoint.family, order, clamping.comparison)
    assert found.not_crossed == "only the dumps were there, and no implementation to decode with"
    assert found.birth is not None
    assert found.birth.place == "after the decoder"


def test_dumps_without_latents_cannot_be_decoded_across(clamping: CellRun, tmp_path: Path) -> None:
    folder = tmp_path / "cell"
    shutil.copytree(clamping.folder, folder, ignore=shutil.ignore_patterns(TENSORS_NAME))
    found = replace(clamping, folder=folder).investigate()
    assert found.trajectory == []
    assert found.not_crossed is not None
    assert "kept the final latent" in found.not_crossed


def test_blame_adds_to_what_is_known_of_the_birth(clamping: CellRun) -> None:
    found = clamping.investigate()
    found = msgspec.structs.replace(found, crossing=[crossed(9.0, 0.0, unit=unit) for unit in (0, 1)])
    later = with_blame(found, blamed(clamping.comparison, "cache"), clamping.case.checkpoint.family)
    assert later.birth is not None
    assert later.birth.place == "cache"
    assert later.pictures == found.pictures


def test_of_a_long_session_the_first_the_worst_and_the_last_wrong_pictures_are_decoded_across(
    tiny: Checkpoint, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    scenario = make_scenario(tiny.geometry, name="five", units=5, seed=3, prompt_tokens=6, prompt_padding=2)
    steps, shown = len(tiny.geometry.transformer.scheduler_sigmas) - 1, count(1)
    scales = {2 * steps: 1.05, 4 * steps: 1.5}

    def change(adapter: Any) -> None:
        """The final latent of frame 1 is a little too strong, and that of frame 3 far too strong."""
        adapter.engine.latent.register_forward_hook(
            lambda module, inputs, latent: latent * scales.get(next(shown), 1.0)
        )

    judgement = Judgement(fixed_tolerance(tiny.family, "fp32"))
    case = load_case("eager", "candidate", tiny, fp32_on_cpu, scenario, judgement, changed=change)
    found = run_cell(case, tmp_path).investigate()
    assert [crossed.at for crossed in found.crossing] == [PictureAt(unit) for unit in (1, 3, 4)]
    assert [crossed.reference_decoder.mean_abs for crossed in found.crossing] == pytest.approx(
        [found.pictures[unit].metrics.mean_abs for unit in (1, 3, 4)], rel=0.01
    )
