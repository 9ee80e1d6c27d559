import pickle
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.observations import FAMILY, JUDGEMENT, key, normal, write_dump
from waypoint_parity.harness.compare import join
from waypoint_parity.harness.compare.join import CANDIDATE, REFERENCE, SideName, join_dumps
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Comparison
from waypoint_parity.harness.judge.diff import enter_missing
from waypoint_parity.harness.judge.table import LINES, VerdictTable
from waypoint_parity.harness.record.records import RECORDS_NAME
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import Key

SITES = [*(f"transformer.blocks.{block}" for block in range(4)), "latent"]
KEYS = [key(site, unit) for unit in range(20) for site in SITES]
EVERYTHING: dict[SideName, Selection | None] = {REFERENCE: None, CANDIDATE: None}
WRONG = {key("transformer.blocks.2", 3), key("latent", 17)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dump(tmp_path_factory.mktemp("reference"), [(at, normal(64)) for at in KEYS]) / RECORDS_NAME


def written(folder: Path, keys: list[Key]) -> Path:
    """Records of the keys, wrong at WRONG, a little off elsewhere."""
    seen = [(at, normal(64) * (2.0 if at in WRONG else 1 + 1e-7)) for at in keys]
    return write_dump(folder, seen) / RECORDS_NAME


def compared(reference: Path, candidate: Path, parts: int) -> Comparison:
    """What a diff says of two files that are read in so many parts."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    left = join_dumps({REFERENCE: reference, CANDIDATE: candidate}, EVERYTHING, table, parts)
    enter_missing(left, table)
    return table.close("eager", "candidate", evidence="sketches", expected=len(KEYS), pictures=[])


@pytest.fixture
def by_turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts are joined one after the other in this process, from copies. Returns how many there were each time."""
    numbers: list[int] = []

    def map_copies(work: Callable[[Any], Any], parts: Collection[Any]) -> Iterator[Any]:
        numbers.append(len(parts))
        for part in parts:
            yield pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(work))(part)))

    monkeypatch.setattr(join, "_in_processes", map_copies)
    return numbers


@pytest.mark.parametrize(
    "keys",
    [KEYS, KEYS[::-1], KEYS[30:] + KEYS[:30], KEYS[:47] + KEYS[48:], KEYS[40:], [*KEYS, key("out_norm")]],
    ids=["same order", "backwards", "rotated", "one lacks", "many lack", "one more"],
)
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_add_up_to_the_whole(
    reference: Path, tmp_path: Path, keys: list[Key], parts: int, by_turns: list[int]
) -> None:
    candidate = written(tmp_path, keys)
    once, added = compared(reference, candidate, 1), compared(reference, candidate, parts)
    assert by_turns == [parts]
    assert added.counts == once.counts
    assert added.failures == once.failures
    assert (added.worst and added.worst.rel_l2) == (once.worst and once.worst.rel_l2)
    assert added.growth == once.growth
    assert sorted(added.sites, key=str) == sorted(once.sites, key=str)


@pytest.mark.usefixtures("by_turns")
def test_a_failure_in_a_later_part_has_its_place_in_the_whole_files(reference: Path, tmp_path: Path) -> None:
    comparison = compared(reference, written(tmp_path, [key("patchify"), *KEYS]), 3)
    found = [(failure.key, failure.order, failure.lines) for failure in comparison.failures if failure.lines]
    lines = {at: KEYS.index(at) for at in sorted(WRONG)}
    assert found == [(at, at.unit * LINES + line, (line + 2, line + 1)) for at, line in lines.items()]
    assert comparison.horizon == 17


@pytest.mark.usefixtures("by_turns")
@pytest.mark.parametrize("again", [KEYS[0], KEYS[60], KEYS[99]])
def test_a_key_that_comes_twice_in_different_parts_is_refused_by_line(
    reference: Path, tmp_path: Path, again: Key
) -> None:
    with pytest.raises(UserError, match="line 101: ") as caught:
        compared(reference, written(tmp_path, [*KEYS, again]), 3)
    assert caught.value.found.endswith(f"the first is on line {KEYS.index(again) + 1}")


@pytest.mark.usefixtures("by_turns")
def test_a_broken_line_of_a_later_part_has_its_number_in_the_file(reference: Path, tmp_path: Path) -> None:
    candidate = written(tmp_path, KEYS)
    lines = candidate.read_bytes().splitlines(keepends=True)
    candidate.write_bytes(b"".join([*lines[:80], b"[]\n", *lines[80:]]))
    with pytest.raises(UserError, match="line 81: not a record"):
        compared(reference, candidate, 3)


def test_processes_of_their_own_find_the_same(reference: Path, tmp_path: Path) -> None:
    candidate = written(tmp_path, KEYS)
    assert compared(reference, candidate, 2).counts == compared(reference, candidate, 1).counts


def test_an_error_in_a_process_of_its_own_arrives_whole(reference: Path, tmp_path: Path) -> None:
    candidate = written(tmp_path, KEYS)
    candidate.write_bytes(candidate.read_bytes()[:-2])
    with pytest.raises(UserError, match="line 100: not a record") as caught:
        compared(reference, candidate, 2)
    assert caught.value.found == "the line is cut short"
