from pathlib import Path

import pytest

from tests.harness.observations import key, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import RECORDS_NAME, read_records, records_mentioning

SITES = ("input.noise", "patchify", "transformer.blocks.0.attn.k_rope", "latent", "input.noise")


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return write_dump(tmp_path / "dump", [(key(site, frame), normal(4)) for frame, site in enumerate(SITES)])


def test_the_records_of_the_named_sites_come_in_order(dump: Path) -> None:
    every = list(read_records(dump))
    assert list(records_mentioning(dump, ["input."])) == [every[0], every[4]]
    assert list(records_mentioning(dump, [".attn.k_rope", "latent"])) == every[2:4]


def test_a_dump_that_was_cut_short_is_refused_though_its_end_names_none_of_the_sites(dump: Path) -> None:
    lines = (dump / RECORDS_NAME).read_bytes().splitlines(keepends=True)
    (dump / RECORDS_NAME).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match="the 5 records that the manifest promises"):
        list(records_mentioning(dump, ["patchify"]))


def test_a_broken_record_of_a_named_site_is_refused(dump: Path) -> None:
    content = (dump / RECORDS_NAME).read_bytes().replace(b'"patchify"', b'"patchify', 1)
    (dump / RECORDS_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"line 2: not a record"):
        list(records_mentioning(dump, ["patchify"]))
