import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.harness.observations import foreign, key, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME, read_investigation
from waypoint_parity.harness.judge.comparison import COMPARISON_NAME, Verdict, read_comparison
from waypoint_parity.harness.judge.diff import diff, open_dump
from waypoint_parity.harness.record.records import MANIFEST_NAME
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.sweep.baseline.runs import open_run
from waypoint_parity.harness.sweep.of_dumps import CELL, write_run
from waypoint_parity.harness.sweep.summary import Summary, read_summary
from waypoint_parity.reports.documents import write_documents

LATENTS = [key("latent", unit, step) for unit in range(2) for step in range(2)]


def picture(level: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 200, (64, 64, 3), dtype=torch.uint8, generator=generator) + level


def dump(folder: Path, *, off: float = 0.0, level: int = 0) -> Path:
    """Two units of latents and pictures, the second unit `off` and brighter by `level`."""
    latents = [(at, normal(4, 8, 8, seed=at.unit) + off * at.unit) for at in LATENTS]
    pictures = [(Key(unit, "decode", 0, "frame"), picture(level * unit)) for unit in range(2)]
    return write_dump(folder, [*latents, *pictures], keep=["latent"], implementation=folder.name)


def run(reference: Path, candidate: Path, out: Path) -> Summary:
    return write_run(open_dump(reference), open_dump(candidate), diff(reference, candidate), out)


def test_two_dumps_are_a_run_of_one_cell(tmp_path: Path) -> None:
    right, wrong = dump(tmp_path / "right"), dump(tmp_path / "wrong", off=0.5, level=20)
    summary = run(right, wrong, tmp_path / "out")
    assert read_summary(tmp_path / "out/summary.json") == summary
    assert (summary.reference, summary.candidates, summary.verdict) == ("right", ["wrong"], Verdict.DIVERGED)
    cell = tmp_path / "out" / summary.cells[CELL].folder
    assert read_comparison(cell / COMPARISON_NAME) == diff(right, wrong)
    found = read_investigation(cell / INVESTIGATION_NAME)
    assert [each.unit for each in found.trajectory] == [0, 0, 1, 1]
    assert [each.metrics.mean_abs for each in found.pictures] == [0, 20]
    assert found.birth is not None


def test_its_documents_are_those_of_any_run(tmp_path: Path) -> None:
    write_documents(
        run(dump(tmp_path / "right"), dump(tmp_path / "wrong", off=0.5), tmp_path / "out"), tmp_path / "out"
    )
    for name in ("report.html", "report.md", "summary.md", "junit.xml"):
        text = (tmp_path / "out" / name).read_text()
        assert "DIVERGED" in text or name == "junit.xml"
        # Nobody can run what was recorded.
        assert "waypoint-parity blame" not in text


def test_a_baseline_takes_it(tmp_path: Path) -> None:
    run(dump(tmp_path / "right"), dump(tmp_path / "again"), tmp_path / "out")
    found = open_run(tmp_path / "out", "candidate")
    assert found.dumps[CELL].dump.manifest.implementation == "again"
    assert found.dumps[CELL].verdict == Verdict.IDENTICAL


def test_dumps_of_no_known_family_are_taken_too(tmp_path: Path) -> None:
    dumps = [dump(tmp_path / name) for name in ("right", "other")]
    for each in dumps:
        for kept in (each / "frames").iterdir():
            kept.unlink()
        given = {"family": "", "checkpoint_digest": "", "checkpoint_origin": "", "scenario_digest": "", "sigmas": []}
        told = json.loads((each / MANIFEST_NAME).read_text()) | given
        (each / MANIFEST_NAME).write_text(json.dumps(told))
        foreign(each)
    summary = run(*dumps, tmp_path / "out")
    write_documents(summary, tmp_path / "out")
    assert summary.verdict is Verdict.IDENTICAL
    assert (tmp_path / "out/report.html").is_file()


def test_an_unfinished_dump_is_reported_and_never_passes(tmp_path: Path) -> None:
    right, cut = dump(tmp_path / "right"), dump(tmp_path / "cut")
    told = json.loads((cut / MANIFEST_NAME).read_text()) | {"complete": False}
    (cut / MANIFEST_NAME).write_text(json.dumps(told))
    summary = run(right, foreign(cut), tmp_path / "out")
    write_documents(summary, tmp_path / "out")
    assert not summary


def test_an_earlier_one_is_replaced_and_the_dumps_stay(tmp_path: Path) -> None:
    right, wrong = dump(tmp_path / "right"), dump(tmp_path / "wrong", off=0.5)
    for candidate, verdict in ((wrong, Verdict.DIVERGED), (right, Verdict.IDENTICAL)):
        assert run(right, candidate, tmp_path / "out").verdict is verdict
    assert diff(right, wrong).verdict is Verdict.DIVERGED


@pytest.mark.parametrize("other", ["cells/sweep-1234/cell.json", "letters/mine.txt"])
def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path, other: str) -> None:
    (tmp_path / "out" / other).parent.mkdir(parents=True)
    (tmp_path / "out" / other).write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        run(dump(tmp_path / "right"), dump(tmp_path / "wrong"), tmp_path / "out")
    assert (tmp_path / "out" / other).read_text() == "mine"


def test_the_links_of_an_earlier_one_name_the_dumps(tmp_path: Path) -> None:
    run(dump(tmp_path / "right"), dump(tmp_path / "wrong", off=0.5), tmp_path / "out")
    cell = tmp_path / "out/cells" / CELL
    assert run(cell / "reference", cell / "candidate", tmp_path / "out").verdict is Verdict.DIVERGED
    assert open_dump(cell / "candidate").manifest.implementation == "wrong"


def test_a_dump_within_it_is_never_replaced(tmp_path: Path) -> None:
    inside = dump(tmp_path / "out/cells" / CELL / "candidate")
    with pytest.raises(UserError, match="would replace a dump"):
        run(dump(tmp_path / "right"), inside, tmp_path / "out")
    assert diff(inside, inside)
