"""`diff` takes nothing on trust: changed files, pictures that are not what was recorded, lines in disorder."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli import engines
from tests.cli.conftest import Outcome, run
from tests.cli.test_engines import named
from tests.harness.observations import foreign
from waypoint_parity.harness.record.records import MANIFEST_NAME, RECORDS_NAME, TENSORS_NAME

Change = Callable[[Path], None]


def pictures(dump: Path) -> list[Path]:
    return sorted((dump / "frames").glob("*.png"))


def black(dump: Path) -> None:
    for path in pictures(dump):
        with Image.open(path) as image:
            Image.new("RGB", image.size).save(path)


def resized(dump: Path) -> None:
    for path in pictures(dump):
        with Image.open(path) as image:
            image.resize((image.width // 2, image.height)).save(path)


def one_level_brighter(dump: Path) -> None:
    for path in pictures(dump):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        Image.fromarray(np.where(pixels < 255, pixels + 1, pixels)).save(path)


def exchanged(dump: Path) -> None:
    first, second = pictures(dump)[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def removed(dump: Path) -> None:
    shutil.rmtree(dump / "frames")
    (dump / "frames").mkdir()


def first_removed(dump: Path) -> None:
    pictures(dump)[0].unlink()


def diff(dumps: Path, candidate: Path, *more: object) -> Outcome:
    return run("diff", dumps / "reference", candidate, *more)


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "foreign"])
@pytest.mark.parametrize("change", [black, resized, one_level_brighter, exchanged, removed, first_removed])
def test_pictures_that_are_not_what_was_recorded_do_not_pass(
    dumps: Path, candidate: Path, change: Change, sealed: bool
) -> None:
    change(candidate)
    if not sealed:
        foreign(candidate)
    outcome = diff(dumps, candidate)
    assert outcome.code == 1, outcome
    assert "frames" in outcome.out or "frame at" in outcome.out


def test_how_far_pictures_are_apart_is_printed(dumps: Path, candidate: Path) -> None:
    black(candidate)
    line = next(line for line in diff(dumps, candidate).out.splitlines() if line.startswith("  pictures:"))
    assert "SSIM 0.0" in line
    assert "of 255" in line


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<html>"])
def test_a_broken_picture_is_refused(dumps: Path, candidate: Path, content: bytes) -> None:
    pictures(candidate)[0].write_bytes(content)
    outcome = diff(dumps, foreign(candidate))
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert pictures(candidate)[0].name in outcome.err


def test_a_dump_of_another_engine_is_told_to_be_one(dumps: Path, candidate: Path) -> None:
    outcome = diff(dumps, foreign(candidate))
    assert outcome.code == 0, outcome
    assert "no digests" in outcome.out
    assert "no digests" not in diff(dumps, dumps / "candidate").out


@pytest.mark.parametrize("name", [RECORDS_NAME, MANIFEST_NAME])
def test_a_changed_file_is_named_and_the_comparison_is_made(dumps: Path, candidate: Path, name: str) -> None:
    path = candidate / name
    text = path.read_text()
    # What is compared nowhere: a sample of the record, the name of the platform.
    changed = (
        text.replace('"sample":[', '"sample":[0.25,', 1) if name == RECORDS_NAME else text.replace("Linux", "linux")
    )
    assert changed != text
    path.write_text(changed)
    outcome = diff(dumps, candidate)
    assert outcome.code == 1, outcome
    assert str(path) in outcome.out
    assert "expected ones compared" in outcome.out


def shuffled(dump: Path) -> Path:
    lines = (dump / RECORDS_NAME).read_bytes().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    (dump / RECORDS_NAME).write_bytes(b"".join(lines))
    return foreign(dump)


@pytest.mark.parametrize("which", ["reference", "candidate", "both"])
def test_what_comes_first_does_not_depend_on_the_order_of_lines(
    dump: Callable[..., tuple[object, ...]], dumps: Path, tmp_path: Path, which: str
) -> None:
    wrong = tmp_path / "wrong"
    assert run(*dump(named(engines.Louder), out=wrong)).code == 0
    assert run("diff", dumps / "reference", wrong, "--json", tmp_path / "in-order.json").code == 1
    sides = {
        side: shutil.copytree(path, tmp_path / side)
        for side, path in (("reference", dumps / "reference"), ("candidate", wrong))
    }
    for side in sides if which == "both" else [which]:
        shuffled(sides[side])
    assert run("diff", *sides.values(), "--json", tmp_path / "shuffled.json").code == 1
    found, expected = (json.loads((tmp_path / name).read_text()) for name in ("shuffled.json", "in-order.json"))
    for name in ("unit", "phase", "step", "site", "call"):
        assert found["first"][name] == expected["first"][name]
    assert [(rung["phase"], rung["step"], rung["site"]) for rung in found["sites"]] == [
        (rung["phase"], rung["step"], rung["site"]) for rung in expected["sites"]
    ]
    assert [slot["message"] for slot in found["slots"]] == [slot["message"] for slot in expected["slots"]]


def test_a_dump_that_was_changed_takes_nobodys_place(
    dump: Callable[..., tuple[object, ...]], tiny_folder: Path, scenario_file: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    assert run(*dump("candidate", "--tensors", out=kept)).code == 0
    content = bytearray((kept / TENSORS_NAME).read_bytes())
    content[-1] ^= 64
    (kept / TENSORS_NAME).write_bytes(content)
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--out", tmp_path / "out", "--jobs", 1)
    outcome = run("parity", "--candidate", f"dump:{kept}", *inputs, "--as-recorded")
    assert outcome.code == 2, outcome
    assert TENSORS_NAME in outcome.err
