"""The seal of a dump: whatever of it is changed after it was written is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.harness.observations import LATENT, foreign, key, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    RECORDS_NAME,
    TENSORS_NAME,
    read_manifest,
)
from waypoint_parity.harness.record.seal import broken_seals, check_seals, is_sealed
from waypoint_parity.harness.run.keys import Key

PICTURE = "frames/000000.png"


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    picture = Key(0, "decode", 0, "frame"), torch.zeros(4, 6, 3, dtype=torch.uint8)
    return write_dump(tmp_path / "dump", [(key("input.noise"), normal(8)), (LATENT, normal(8)), picture], keep=["*"])


def broken(dump: Path) -> list[str]:
    return broken_seals(dump, read_manifest(dump))


def test_a_dump_is_as_it_was_written(dump: Path) -> None:
    assert is_sealed(read_manifest(dump))
    assert broken(dump) == []


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", [RECORDS_NAME, TENSORS_NAME, PICTURE])
def test_a_file_that_was_changed_is_named(dump: Path, name: str, change: Callable[[Path], None]) -> None:
    change(dump / name)
    (found,) = broken(dump)
    assert str(dump / name) in found
    with pytest.raises(UserError) as caught:
        check_seals(dump, read_manifest(dump))
    assert caught.value.found == found


def test_a_picture_that_was_added_is_named(dump: Path) -> None:
    (dump / "frames" / "000001.png").write_bytes((dump / PICTURE).read_bytes())
    (found,) = broken(dump)
    assert "000001.png" in found


OTHERS = {
    "variant": "other",
    "sigmas": [0.5],
    "seconds": 1e9,
    "passes": [],
    "sites": [],
    "files": {},
    "seal": "0",
    "notes": ["one"],
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_manifest_that_was_changed_is_named(dump: Path, name: str) -> None:
    manifest = json.loads((dump / MANIFEST_NAME).read_bytes())
    (dump / MANIFEST_NAME).write_text(json.dumps(manifest | {name: OTHERS[name]}))
    assert MANIFEST_NAME in broken(dump)[0]


@pytest.mark.parametrize("name", ["files", "seal"])
def test_half_a_seal_is_none(dump: Path, name: str) -> None:
    manifest = json.loads((dump / MANIFEST_NAME).read_bytes())
    del manifest[name]
    (dump / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert MANIFEST_NAME in broken(dump)[0]


def test_a_name_that_leads_out_of_the_dump_is_none_of_its_files(dump: Path) -> None:
    manifest = json.loads((dump / MANIFEST_NAME).read_bytes())
    manifest["files"]["../secret"] = "0"
    (dump.parent / "secret").write_text("")
    (dump / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert any("secret is gone" in found for found in broken(dump))


def test_a_dump_without_digests_is_not_sealed(dump: Path) -> None:
    assert not is_sealed(read_manifest(foreign(dump)))
    flip(dump / PICTURE)
    assert broken(dump) == []


def test_a_field_that_an_older_writer_did_not_know_breaks_no_seal(dump: Path) -> None:
    manifest = read_manifest(dump)
    told = json.loads((dump / MANIFEST_NAME).read_text())
    del told["notes"]
    (dump / MANIFEST_NAME).write_text(json.dumps(told))
    assert read_manifest(dump) == manifest
    assert broken(dump) == []
