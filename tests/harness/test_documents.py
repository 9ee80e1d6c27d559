import os
import stat
from pathlib import Path

import msgspec
import pytest

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import read_document, replacing

SCHEMA = "waypoint-parity/note/1"


class Note(msgspec.Struct, frozen=True):
    schema: str
    text: str


def read(path: Path) -> Note:
    return read_document(path, Note, SCHEMA, called="a note", do="write it again")


def test_a_document_of_its_schema_is_read(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(msgspec.json.encode(Note(SCHEMA, "flat")))
    assert read(path) == Note(SCHEMA, "flat")


@pytest.mark.parametrize(
    "content", [None, b"", b'{"schema":', b'{"schema": "waypoint-parity/note/1"}', b'{"text": "\xff"}']
)
def test_a_broken_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(path)
    assert error.value.what == f"{path}: cannot be read as a note"
    assert error.value.expected == f"a note of schema {SCHEMA}"
    assert error.value.do == "write it again"


def test_another_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(msgspec.json.encode(Note("waypoint-parity/note/2", "sharp")))
    with pytest.raises(UserError) as error:
        read(path)
    assert error.value.what == f"{path}: unknown schema of a note"
    assert (error.value.found, error.value.expected) == ("waypoint-parity/note/2", SCHEMA)


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as place:
        place.write_bytes(b"whole")
    assert os.read(reader, 100) == b"whole"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_that_is_full_is_told() -> None:
    with pytest.raises(UserError, match="/dev/full: cannot be written"), replacing(Path("/dev/full")) as place:
        place.write_bytes(b"whole")
