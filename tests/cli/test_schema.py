"""The schemas that are printed hold for what is really written."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import run
from waypoint_parity.harness.record.records import MANIFEST_NAME, RECORDS_NAME

jsonschema = pytest.importorskip("jsonschema")


def validator(of: str) -> Any:
    outcome = run("schema", of)
    assert outcome.code == 0, outcome
    schema = json.loads(outcome.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_every_record_and_manifest_of_a_dump_is_valid(dumps: Path) -> None:
    record, manifest = validator("record"), validator("manifest")
    for dump in (dumps / "reference", dumps / "candidate"):
        lines = (dump / RECORDS_NAME).read_bytes().splitlines()
        assert [error.message for line in lines for error in record.iter_errors(json.loads(line))] == []
        manifest.validate(json.loads((dump / MANIFEST_NAME).read_bytes()))
    broken = json.loads(lines[0])
    del broken["rms"]
    broken["unit"] = -1
    assert len([*record.iter_errors(broken)]) == 2


def test_what_commands_write_is_valid(dumps: Path) -> None:
    compared = run("diff", dumps / "reference", dumps / "candidate", "--tolerance", 1e-12, "--json", "-")
    validator("comparison").validate(json.loads(compared.out))
    checked = run("check-dump", dumps / "reference", "--json", "-")
    validator("dump-check").validate(json.loads(checked.out))


@pytest.mark.parametrize(
    ("message", "valid"),
    [
        ({"op": "ready", "protocol": 1, "sites": {"velocity": {"replaceable": True}}}, True),
        ({"op": "pass", "unit": 0, "phase": "denoise", "step": 0, "sigma": 1.0}, True),
        ({"op": "show", "site": "velocity", "tensors": [["F32", [1, 1, 4, 2, 2]]]}, True),
        ({"op": "put", "took": True}, True),
        ({"op": "end"}, True),
        ({"op": "pass", "unit": "0", "phase": "denoise"}, False),
        ({"op": "shows", "site": "velocity"}, False),
    ],
)
def test_messages_are_valid_as_the_protocol_has_them(message: dict[str, Any], valid: bool) -> None:
    assert validator("message").is_valid(message) is valid
