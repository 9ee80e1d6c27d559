import base64
import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.harness.observations import key, manifest, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import (
    DUMP_SCHEMA,
    MANIFEST_NAME,
    MOST_UNITS,
    RECORDS_NAME,
    SKETCH_SIZE,
    Record,
    encode,
    is_dump,
    read_manifest,
    read_records,
    records_mentioning,
    to_json,
)
from waypoint_parity.harness.record.seal import sealed


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return write_dump(tmp_path / "dump", [(key("latent", unit), normal(50, seed=unit)) for unit in range(3)])


def line(dump: Path, number: int = 0) -> dict[str, Any]:
    """A record of the dump as plain JSON."""
    values: dict[str, Any] = json.loads((dump / RECORDS_NAME).read_bytes().splitlines()[number])
    return values


def rewrite(dump: Path, *lines: dict[str, Any]) -> Path:
    """The dump with `lines` for its records."""
    (dump / MANIFEST_NAME).write_bytes(to_json(manifest(observed=len(lines), complete=True)))
    (dump / RECORDS_NAME).write_bytes(b"".join(json.dumps(values).encode() + b"\n" for values in lines))
    return dump


def refusal(dump: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        list(read_records(dump))
    return caught.value


def test_a_record_has_the_fields_of_the_format(dump: Path) -> None:
    key_fields = {"unit", "phase", "step", "site", "call"}
    statistics = {"mean", "std", "min", "max", "absmean", "rms", "nan", "posinf", "neginf", "sample", "sketch"}
    assert line(dump).keys() == key_fields | {"sigma", "shape", "dtype"} | statistics | {"digest"}


def test_a_sketch_is_base64_of_little_endian_floats(dump: Path) -> None:
    record = next(read_records(dump))
    decoded = np.frombuffer(base64.b64decode(line(dump)["sketch"]), "<f4")
    assert np.array_equal(decoded, record.projection())
    assert decoded.shape == (SKETCH_SIZE,)


def test_records_come_in_the_order_of_the_file(dump: Path) -> None:
    assert [record.key for record in read_records(dump)] == [key("latent", unit) for unit in range(3)]


def test_a_field_that_is_not_known_is_passed_over(dump: Path) -> None:
    """Fields may be added to the format."""
    records = list(read_records(rewrite(dump, line(dump) | {"kurtosis": 3.0, "histogram": [1, 2]})))
    assert len(records) == 1


def test_a_record_of_a_step_with_branches_names_its_own(tmp_path: Path) -> None:
    dump = write_dump(tmp_path / "dump", [(key("velocity")._replace(branch="uncond"), normal(4))])
    assert line(dump)["branch"] == "uncond"
    assert next(read_records(dump)).key == key("velocity")._replace(branch="uncond")


@pytest.mark.parametrize("unit", [-1, MOST_UNITS])
def test_a_unit_that_no_run_can_have_is_refused(dump: Path, unit: int) -> None:
    """What reads a dump sets a bit for every unit."""
    assert refusal(rewrite(dump, line(dump) | {"unit": unit})).what.endswith("line 1: not a record")


def test_a_record_of_another_writer_needs_no_digest(dump: Path) -> None:
    bare = {name: value for name, value in line(dump).items() if name != "digest"}
    assert next(read_records(rewrite(dump, bare))).digest is None


@pytest.mark.parametrize("field", ["unit", "site", "shape", "mean", "nan"])
def test_a_record_without_a_required_field_is_refused(dump: Path, field: str) -> None:
    bare = {name: value for name, value in line(dump).items() if name != field}
    assert f"`{field}`" in refusal(rewrite(dump, line(dump), bare)).found


@pytest.mark.parametrize(
    "changes",
    [{"phase": 0}, {"branch": None}, {"unit": "0"}, {"mean": "0.1"}, {"shape": 50}, {"nan": None}, {"step": 0.5}],
    ids=str,
)
def test_a_field_of_the_wrong_type_is_refused(dump: Path, changes: dict[str, Any]) -> None:
    assert refusal(rewrite(dump, line(dump) | changes)).what.endswith("line 1: not a record")


@pytest.mark.parametrize(
    "sketch",
    [
        "AAAA",
        base64.b64encode(bytes(4 * (SKETCH_SIZE + 1))).decode(),
        "#" * 328,
        base64.b64encode(b"\0" * 243).decode(),
    ],
    ids=["three bytes", "one too many", "not base64", "not whole floats"],
)
def test_a_sketch_of_another_length_is_refused(dump: Path, sketch: str) -> None:
    error = refusal(rewrite(dump, line(dump), line(dump, 1) | {"sketch": sketch}))
    assert error.what == f"{dump / RECORDS_NAME}, line 2: not a record"
    assert f"{SKETCH_SIZE} numbers" in error.expected


def test_statistics_alone_are_a_record_without_shape_dtype_and_sketch(dump: Path) -> None:
    unknown = {"shape": None, "dtype": None, "min": None}
    bare = {name: value for name, value in line(dump).items() if name not in ("sketch", "sample", "digest")}
    record = next(read_records(rewrite(dump, bare | unknown)))
    assert (record.shape, record.dtype, record.min, record.sample) == (None, None, None, [])
    assert len(record.projection()) == 0


@pytest.mark.parametrize("field", ["shape", "dtype"])
def test_a_record_with_a_sketch_has_a_shape_and_a_dtype(dump: Path, field: str) -> None:
    assert refusal(rewrite(dump, line(dump) | {field: None})).what.endswith("line 1: not a record")


@pytest.mark.parametrize("cut", [2, 100])
def test_a_file_cut_off_within_a_record_is_refused_by_file_and_line(dump: Path, cut: int) -> None:
    file = dump / RECORDS_NAME
    file.write_bytes(file.read_bytes()[:-cut])
    error = refusal(dump)
    assert error.what == f"{file}, line 3: not a record"
    assert error.found == "the line is cut short"


@pytest.mark.parametrize("kept", [0, 2])
def test_a_file_cut_off_between_two_records_is_refused(dump: Path, kept: int) -> None:
    """The manifest says how many there are; two dumps cut alike would else agree."""
    file = dump / RECORDS_NAME
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:kept]))
    error = refusal(dump)
    assert error.what.startswith(f"{file}, line {kept}:")
    assert (error.found, error.expected) == (f"{kept} records", "the 3 records that the manifest promises")


@pytest.mark.parametrize("broken", [b"\xff\xfe\n", b'{"site": "\xc3"}\n', b"\n", b"{}\n", b"null\n", b"\0\n"])
def test_a_line_that_is_no_record_is_refused_by_file_and_line(dump: Path, broken: bytes) -> None:
    file = dump / RECORDS_NAME
    first, *rest = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, broken, *rest]))
    assert refusal(dump).what == f"{file}, line 2: not a record"


def test_absent_records_are_refused_by_file(dump: Path) -> None:
    (dump / RECORDS_NAME).unlink()
    assert refusal(dump).what.startswith(str(dump / RECORDS_NAME))


def test_a_manifest_is_read_back_as_it_was_written(dump: Path) -> None:
    found = read_manifest(dump)
    assert (found.observed, found.complete) == (3, True)
    assert found == sealed(manifest(expected=3, observed=3, complete=True, seconds=found.seconds), found.files or {})


def test_a_manifest_of_an_unknown_schema_is_refused(dump: Path) -> None:
    (dump / MANIFEST_NAME).write_bytes(to_json(manifest(schema="waypoint-parity/dump/3", complete=True)))
    with pytest.raises(UserError) as caught:
        read_manifest(dump)
    assert (caught.value.found, caught.value.expected) == ("waypoint-parity/dump/3", DUMP_SCHEMA)


def test_the_manifest_of_an_unfinished_run_is_refused(dump: Path) -> None:
    (dump / MANIFEST_NAME).write_bytes(to_json(manifest()))
    with pytest.raises(UserError, match="the dump is incomplete"):
        read_manifest(dump)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"schema": "\xff"}'])
def test_a_broken_manifest_is_refused_by_file(dump: Path, content: bytes) -> None:
    (dump / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_manifest(dump)
    assert caught.value.what == f"{dump / MANIFEST_NAME}: cannot be read as a manifest"


def test_a_folder_that_is_no_dump_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        read_manifest(tmp_path)


def test_a_golden_pack_is_no_dump_though_it_has_a_manifest(golden: Path, dump: Path) -> None:
    assert is_dump(dump)
    assert (golden / "base" / MANIFEST_NAME).is_file()
    assert not is_dump(golden / "base")


def test_no_bare_nan_reaches_a_file() -> None:
    assert to_json({"mean": math.nan, "max": math.inf}) == b'{\n "mean": null,\n "max": null\n}\n'


def test_a_record_survives_encoding(dump: Path) -> None:
    record = next(read_records(dump))
    assert msgspec.json.decode(encode(record), type=Record) == record


NAMED = ("input.noise", "patchify", "transformer.blocks.0.attn.k_rope", "latent", "input.noise")


@pytest.fixture
def named(tmp_path: Path) -> Path:
    return write_dump(tmp_path / "dump", [(key(site, unit), normal(4)) for unit, site in enumerate(NAMED)])


def test_the_records_of_the_named_sites_come_in_order(named: Path) -> None:
    every = list(read_records(named))
    assert list(records_mentioning(named, ["input."])) == [every[0], every[4]]
    assert list(records_mentioning(named, [".attn.k_rope", "latent"])) == every[2:4]


def test_a_dump_that_was_cut_short_is_refused_though_its_end_names_none_of_the_sites(named: Path) -> None:
    lines = (named / RECORDS_NAME).read_bytes().splitlines(keepends=True)
    (named / RECORDS_NAME).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match="the 5 records that the manifest promises"):
        list(records_mentioning(named, ["patchify"]))


def test_a_broken_record_of_a_named_site_is_refused(named: Path) -> None:
    content = (named / RECORDS_NAME).read_bytes().replace(b'"patchify"', b'"patchify', 1)
    (named / RECORDS_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"line 2: not a record"):
        list(records_mentioning(named, ["patchify"]))
