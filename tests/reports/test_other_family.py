"""The report of a family that has nothing of Waypoint's: what it lacks is no section."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from tests.harness.sweeps import tiny_cells
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME, read_investigation
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.family import families, family_named
from waypoint_parity.harness.sweep.identity import Rules
from waypoint_parity.harness.sweep.parity import ParityRun, run_parity
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary
from waypoint_parity.reports.documents import write_documents
from waypoint_parity.reports.report import write_report

TOY = Path(__file__).parents[1] / "toy"


@pytest.fixture(scope="module")
def run(fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run of the toy family in which a candidate diverges, with its documents."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOY)
        families.cache_clear()
        family = family_named("toy")
        (folder / "toy.json").write_text(json.dumps({}))
        geometry, draw = family.open(folder, Path).geometry, torch.Generator().manual_seed(0)
        shapes = family.keys("net", geometry) or {}
        save_file(
            {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}, folder / "toy.safetensors"
        )
        checkpoint, out = open_checkpoint(folder), folder / "run"
        scenario = family.make(geometry, name="walk", seed=1, units=2)
        cells = tiny_cells(checkpoint, scenario, fp32_on_cpu, implementations=("toy_family:Forgetful",))
        write_documents(run_parity(ParityRun(checkpoint, Rules("toy_family:Reference"), out), cells), out)
        yield out
    families.cache_clear()


def test_units_have_their_own_name_and_pictures_theirs_where_a_unit_shows_several(run: Path) -> None:
    twin = (run / "report.md").read_text("utf-8")
    assert "| at clip |" in twin
    assert all(f"- picture {label}: [reference]" in twin for label in ("0", "0.0.1", "1", "1.0.1"))
    assert "frame" not in re.sub(r"\(<.*?>\)|SSIM: .*", "", twin)
    cases = re.findall(r'<testcase classname="[^"]*\.clips" name="([^"]*)"', (run / "junit.xml").read_text("utf-8"))
    assert cases == ["clip 0", "clip 1"]


def test_a_site_of_one_branch_is_named_with_it(run: Path) -> None:
    twin = (run / "report.md").read_text("utf-8")
    assert "net.1@with " in twin
    assert "net.1@without " in twin


def test_a_family_without_caches_has_no_section_for_them(run: Path) -> None:
    page, twin = ((run / name).read_text("utf-8") for name in ("report.html", "report.md"))
    assert 'id="caches"' not in page
    assert "Caches" not in page + twin
    assert 'id="seen"' in page


def test_a_session_without_pictures_has_no_section_for_them(run: Path, tmp_path: Path) -> None:
    blind = tmp_path / "run"
    shutil.copytree(run, blind)
    summary = read_summary(blind / SUMMARY_NAME)
    for name, cell in summary.cells.items():
        summary.variants[name] = msgspec.structs.replace(summary.variants[name], pictures=[])
        found = blind / cell.folder / INVESTIGATION_NAME
        found.write_bytes(to_json(msgspec.structs.replace(read_investigation(found), pictures=[])))
        for side in ("reference", "candidate"):
            shutil.rmtree(blind / cell.folder / side / "frames")
    (blind / SUMMARY_NAME).write_bytes(to_json(summary))
    page = write_report(blind)
    for text in (page.read_text("utf-8"), page.with_suffix(".md").read_text("utf-8")):
        assert "SSIM" not in text
        assert "### Pictures" not in text
        assert 'id="pictures"' not in text
        assert 'id="stage"' not in text
