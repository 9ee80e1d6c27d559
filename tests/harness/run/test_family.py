"""Families by name: ours, and what an installed distribution registers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.observations import FAMILY
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.family import Waypoint
from waypoint_parity.harness.run.family import GROUP, NoCaches, families, family_in, family_named, optional_fields
from waypoint_parity.harness.run.keys import Key

# A family as far as it is found, and others that cannot be had: under a name of ours, and of a module that raises.
SOURCE = """
class Clips:
    name = "clips"

    def layout_of(self, folder):
        return "clips" if (folder / "clips.json").is_file() else None

class Impostor(Clips):
    name = "waypoint"

FAMILY, IMPOSTOR = Clips(), Impostor()
"""
CLIPS, IMPOSTOR, BROKEN = "clip_models:FAMILY", "clip_models:IMPOSTOR", "clip_models.none:FAMILY"
PROGRAM = """
import sys
from pathlib import Path
from waypoint_parity.harness.run.family import families, family_in
print(*families())
print(type(families()["waypoint"]).__name__)
print(*(getattr(family_in(Path(folder)), "name", None) for folder in sys.argv[1:]))
"""


def installed(folder: Path, *families: str) -> dict[str, str]:
    """An environment in which a distribution registers families of the module `clip_models`."""
    site = folder / "site-packages"
    info = site / "clip_models-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "clip_models.py").write_text(SOURCE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clip-models\nVersion: 1.0\n")
    registered = "".join(f"family{number} = {family}\n" for number, family in enumerate(families))
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{registered}")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_ours_is_found_by_its_folder() -> None:
    assert isinstance(family_named("waypoint"), Waypoint)
    assert families()["waypoint"] is FAMILY


def test_a_family_that_a_distribution_registers_is_found_after_ours(tiny_folder: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path, CLIPS)
    (tmp_path / "clips.json").touch()
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, tiny_folder, tmp_path, tmp_path / "site-packages"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    names, *rest = finished.stdout.splitlines()
    *ours, last = names.split()
    assert (ours, last) == (sorted(ours), "clips")
    assert {"causal-wan", "hy-worldplay", "wan", "waypoint"} <= set(ours)
    assert rest == ["Waypoint", "waypoint clips None"]


@pytest.mark.parametrize("family", [IMPOSTOR, BROKEN, f"{CLIPS}.none"])
def test_a_family_that_cannot_be_had_is_named_with_what_brought_it(family: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "waypoint_parity", "info", tmp_path]
    finished = subprocess.run(words, env=installed(tmp_path, family), capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert f"{family}: the family of clip-models cannot be used" in finished.stderr


def test_an_unknown_family_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="sora: no such family of models") as caught:
        family_named("sora")
    assert "waypoint" in caught.value.expected
    assert GROUP in caught.value.do


def test_a_folder_is_of_the_family_that_recognises_it(tiny_folder: Path, tmp_path: Path) -> None:
    assert family_in(tiny_folder) is FAMILY
    assert family_in(tmp_path) is None


def test_the_fields_that_a_scenario_might_do_without_are_named_but_for_the_schedule() -> None:
    names = ["sigmas", "prompt_pad_mask", "noise", "prompt_emb", "unknown"]
    assert optional_fields(FAMILY, names) == ["prompt_emb", "prompt_pad_mask"]
    assert optional_fields(FAMILY, [*names, "image"]) == ["image", "prompt_emb", "prompt_pad_mask"]


def test_a_family_without_caches_has_no_faults_in_them() -> None:
    caches, key = NoCaches(), Key(0, "denoise", 0, "memory")
    comparison = caches.comparison(caches.describe(None), teacher_forced=False)
    assert not caches.tells("memory")
    comparison.reference(0, caches.sign(key, "float32", None, None))
    comparison.candidate(caches.sign(key, "float32", "c0ffee", None))
    assert comparison.faults == []
