from pathlib import Path

import pytest

from tests.harness.observations import key, normal, write_dump
from waypoint_parity.harness.compare.columns import Places
from waypoint_parity.harness.compare.join import CANDIDATE, REFERENCE, DumpJoin, Pairs, SideName
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.blocks import FilePart
from waypoint_parity.harness.record.records import RECORDS_NAME
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import Key

BLOCKS = [key(f"transformer.blocks.{block}") for block in range(5)]


class Joined:
    """What joining dumps of these keys gives."""

    def __init__(
        self, folder: Path, candidate: list[Key], reference: list[Key], taken: Selection | None = None
    ) -> None:
        keys: dict[SideName, list[Key]] = {REFERENCE: reference, CANDIDATE: candidate}
        paths = {side: written(folder / side, keys[side]) for side in keys}
        parts = {side: FilePart(path, 0, path.stat().st_size) for side, path in paths.items()}
        self.places = Places()
        self.join = DumpJoin(self.places, paths)
        self.found = list(self.join.pairs(parts, {REFERENCE: taken, CANDIDATE: None}))

    @property
    def pairs(self) -> list[tuple[int, int, Key]]:
        """(line of the reference, line of the candidate, key) of every pair, from 0."""
        assert all(self._agree(pairs) for pairs in self.found)
        columns = [zip(expected.at, actual.at, expected.codes, strict=True) for actual, expected in self.found]
        return [(int(order), int(line), self.places.key(int(code))) for rows in columns for order, line, code in rows]

    def _agree(self, pairs: Pairs) -> bool:
        keys = [self.places.key(code) for code in pairs[1].codes.tolist()]
        return all([rows.record(index).key for index in range(len(rows))] == keys for rows in pairs)

    def waiting(self, side: SideName) -> list[tuple[int, Key]]:
        return [(line.first, self.places.key(code)) for code, line in self.join.waiting[side].items()]


def written(folder: Path, keys: list[Key]) -> Path:
    """The records of a dump of these keys."""
    return write_dump(folder, [(at, normal(4)) for at in keys]) / RECORDS_NAME


def test_records_in_one_order_are_joined_line_by_line(tmp_path: Path) -> None:
    joined = Joined(tmp_path, BLOCKS, BLOCKS)
    assert joined.pairs == [(line, line, at) for line, at in enumerate(BLOCKS)]


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0, 3, 2, 4], [4, 0, 1, 2, 3], [1, 2, 3, 4, 0]], ids=str)
def test_records_in_another_order_find_their_partners_and_keep_their_lines(tmp_path: Path, order: list[int]) -> None:
    joined = Joined(tmp_path, [BLOCKS[place] for place in order], BLOCKS)
    assert sorted(joined.pairs) == [(line, order.index(line), at) for line, at in enumerate(BLOCKS)]


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_a_record_that_one_side_lacks_is_left_waiting_by_the_other(tmp_path: Path, absent: int) -> None:
    fewer = [at for at in BLOCKS if at != BLOCKS[absent]]
    without = Joined(tmp_path / "candidate", fewer, BLOCKS)
    assert without.waiting(REFERENCE) == [(absent, BLOCKS[absent])]
    assert without.waiting(CANDIDATE) == []
    without = Joined(tmp_path / "reference", BLOCKS, fewer)
    assert without.waiting(CANDIDATE) == [(absent, BLOCKS[absent])]
    assert len(without.pairs) == 4


def test_sides_without_a_common_record_are_not_joined_at_all(tmp_path: Path) -> None:
    joined = Joined(tmp_path, BLOCKS[:2], BLOCKS[2:])
    assert joined.pairs == []
    assert (len(joined.waiting(CANDIDATE)), len(joined.waiting(REFERENCE))) == (2, 3)


def test_a_key_that_comes_twice_is_refused_by_file_and_line(tmp_path: Path) -> None:
    """Of two records of one key, one would be compared and the other forgotten."""
    with pytest.raises(UserError, match="comes twice") as caught:
        Joined(tmp_path, [BLOCKS[0], BLOCKS[1], BLOCKS[1]], BLOCKS[::-1])
    assert caught.value.what.startswith(f"{tmp_path / 'candidate' / RECORDS_NAME}, line 3: ")
    assert caught.value.found.endswith("the first is on line 2")


def test_a_key_comes_twice_also_where_the_first_has_long_found_its_partner(tmp_path: Path) -> None:
    long = [key("latent", unit) for unit in range(1500)]
    with pytest.raises(UserError, match="line 1501: "):
        Joined(tmp_path, long, [*long, long[3]])


def test_another_call_or_branch_of_a_site_is_another_record(tmp_path: Path) -> None:
    calls = [key("latent"), key("latent", call=1), key("latent")._replace(branch="uncond")]
    assert len(Joined(tmp_path, calls, calls).pairs) == 3


def test_what_the_other_dump_did_not_record_on_purpose_does_not_wait(tmp_path: Path) -> None:
    every_other = Selection(every=2)
    joined = Joined(
        tmp_path, [key("latent", 0), key("latent", 2)], [key("latent", unit) for unit in range(4)], every_other
    )
    assert joined.pairs == [(0, 0, key("latent", 0)), (2, 1, key("latent", 2))]
    assert joined.waiting(REFERENCE) == []
