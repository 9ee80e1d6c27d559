"""Dumps of the first schema, in which a unit was a frame and there was one family, are still read."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness.observations import FAMILY, JUDGEMENT, key, manifest, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.diff import diff, expected_observations
from waypoint_parity.harness.record.records import (
    FIRST_SCHEMA,
    MANIFEST_NAME,
    RECORDS_NAME,
    PassSites,
    is_dump,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import Key

FRAMES = 3
SITES = ("input.noise", "patchify", "latent")
KEYS = [key(site, frame) for frame in range(FRAMES) for site in SITES]
PASSES = {
    "prompt0": ["input.prompt_emb"],
    "image0": ["encoder.conv_in"],
    "denoise0": list(SITES),
    "denoise12": ["latent"],
    "cache0": ["patchify"],
    "decode0": ["frame"],
}
RINGS = [
    {"kind": "global", "frames": 8, "dilation": 2, "tokens": 4},
    {"kind": "local", "frames": 2, "dilation": 1, "tokens": 4},
]


def first_schema(folder: Path, keys: list[Key] = KEYS, **fields: Any) -> Path:
    """A dump as the first release would have written it; `fields` go to its manifest."""
    write_dump(folder, [(at, normal(4, seed=at.unit)) for at in keys])
    lines = [json.loads(line) for line in (folder / RECORDS_NAME).read_bytes().splitlines()]
    old = [{"frame": line.pop("unit"), **line} for line in lines]
    (folder / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in old))
    known = msgspec.to_builtins(manifest(expected=len(old), observed=len(old), complete=True))
    left_out = ("family", "units", "caches", "passes", "selection")
    told = {name: value for name, value in known.items() if name not in left_out}
    (folder / MANIFEST_NAME).write_text(json.dumps({**told, "schema": FIRST_SCHEMA, **fields}))
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return first_schema(tmp_path / "old")


def new(folder: Path, keys: list[Key] = KEYS, **fields: Any) -> Path:
    return write_dump(folder, [(at, normal(4, seed=at.unit)) for at in keys], **fields)


def test_it_is_a_dump(old: Path) -> None:
    assert is_dump(old)


def test_a_frame_is_a_unit(old: Path, tmp_path: Path) -> None:
    records = list(read_records(old))
    assert [record.key for record in records] == KEYS
    assert records == list(read_records(new(tmp_path / "new")))


def test_a_line_that_has_neither_is_refused_for_the_unit(old: Path) -> None:
    lines = (old / RECORDS_NAME).read_text().splitlines(keepends=True)
    (old / RECORDS_NAME).write_text("".join([lines[0].replace('"frame"', '"picture"'), *lines[1:]]))
    with pytest.raises(UserError, match="line 1: not a record") as caught:
        list(read_records(old))
    assert "`unit`" in caught.value.found


def test_its_manifest_is_read_in_the_names_of_this_one(tmp_path: Path) -> None:
    selection = {"sites": ["latent", "patchify"], "frames": [0, 2], "steps": [0], "every": 2}
    found = read_manifest(
        first_schema(tmp_path, frames=FRAMES, passes=PASSES, rings=RINGS, selection=selection, observer="bit-identical")
    )
    assert (found.family, found.units, found.observer) == ("waypoint", FRAMES, "bit-identical")
    assert found.selection == Selection(
        sites=("latent", "patchify"), units=(0, 2), steps=(0,), stepped=("denoise",), every=2
    )
    # What came before the frames was in frame 0.
    assert found.passes == [
        PassSites("prompt", 0, [(0, 1)], ["input.prompt_emb"]),
        PassSites("image", 0, [(0, 1)], ["encoder.conv_in"]),
        PassSites("denoise", 0, [(0, FRAMES)], list(SITES)),
        PassSites("denoise", 12, [(0, FRAMES)], ["latent"]),
        PassSites("cache", 0, [(0, FRAMES)], ["patchify"]),
        PassSites("decode", 0, [(0, FRAMES)], ["frame"]),
    ]
    assert found.caches == [{"name": f"kv_cache.layers.{layer}", **ring} for layer, ring in enumerate(RINGS)]
    assert FAMILY.caches.comparison(found.caches, teacher_forced=False).faults == []


def test_a_manifest_of_an_engine_that_told_less_is_read(old: Path) -> None:
    found = read_manifest(old)
    assert (found.units, found.passes, found.selection, found.caches) == (None, None, None, None)


def test_without_a_selection_everything_was_taken(tmp_path: Path) -> None:
    assert read_manifest(first_schema(tmp_path, frames=FRAMES, selection=None)).selection is None


def test_the_same_is_expected_of_it_as_of_one_of_this_schema(tmp_path: Path) -> None:
    old = read_manifest(first_schema(tmp_path / "old", frames=FRAMES, passes=PASSES))
    assert expected_observations(old, old) == expected_observations(
        manifest(units=FRAMES, passes=old.passes), manifest(units=FRAMES, passes=old.passes)
    )


@pytest.mark.parametrize(
    "content", [{"frames": "three"}, {"passes": []}, {"selection": []}, {"rings": {}}, {"rings": [1]}], ids=str
)
def test_a_broken_manifest_of_it_is_refused_by_file(tmp_path: Path, content: dict[str, Any]) -> None:
    folder = first_schema(tmp_path, **{"frames": FRAMES, "passes": {}, **content})
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        read_manifest(folder)


@pytest.mark.parametrize("order", [KEYS, KEYS[::-1], KEYS[4:] + KEYS[:4]], ids=["same order", "backwards", "rotated"])
def test_it_is_compared_with_one_of_this_schema_and_with_its_like(tmp_path: Path, order: list[Key]) -> None:
    old, again = first_schema(tmp_path / "old"), first_schema(tmp_path / "again", order)
    for reference, candidate in ((old, new(tmp_path / "new", order)), (new(tmp_path / "n"), again), (old, again)):
        comparison = diff(reference, candidate, JUDGEMENT)
        assert comparison.verdict is Verdict.IDENTICAL
        assert comparison.compared == len(KEYS)
