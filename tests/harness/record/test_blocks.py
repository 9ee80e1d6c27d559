from pathlib import Path

import pytest

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.blocks import BLOCK, LONGEST_LINE, FilePart, blocks, split


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """3000 lines of unequal length, in several blocks."""
    path = tmp_path / "lines"
    path.write_bytes(b"".join(b"%d " % line + b"x" * (line % 400) + b"\n" for line in range(3000)))
    assert path.stat().st_size > 2 * BLOCK
    return path


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_line_is_in_one_block_of_one_part(file: Path, parts: int) -> None:
    found, lines = split(file, parts), 0
    assert len(found) == parts
    for part in found:
        assert part.line_number(0) == lines + 1
        for block in blocks(part):
            assert block.content.startswith(b"%d " % (lines + block.first))
            assert block.content.endswith(b"\n")
        lines += sum(block.lines for block in blocks(part))
    assert lines == 3000
    assert b"".join(block.content for part in found for block in blocks(part)) == file.read_bytes()


def test_a_line_too_long_to_be_a_record_is_refused_and_not_searched_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as sparse:
        sparse.write(b"{}\n")
        sparse.truncate(1 << 33)
    assert split(path, 4) == [FilePart(path, 0, 1 << 33)]
    with pytest.raises(UserError, match="line 2: not a record") as caught:
        list(blocks(FilePart(path)))
    assert caught.value.found == f"a line of more than {LONGEST_LINE} bytes"


def test_a_file_without_a_line_has_no_block(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert [list(blocks(part)) for part in split(tmp_path / "empty", 1)] == [[]]
