"""Keys by the rules that a user gives: units, steps, calls, branches, names."""

from pathlib import Path
from typing import Any

import pytest

from tests.harness.record.foreign.samples import imported
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.foreign.found import Found, Notes
from waypoint_parity.harness.record.foreign.keys import KeyRules, Keys, Renames, phase_name
from waypoint_parity.harness.record.foreign.told import Told
from waypoint_parity.harness.run.keys import Key


def keys(found: list[dict[str, Any]], *rename: str, **rules: Any) -> list[Key | None]:
    made, notes = Keys(KeyRules(**rules), Renames.read(rename)), Notes()
    return [made.of(Found(value=Told(), **values), notes) for values in found]


def names(found: list[dict[str, Any]], *rename: str, **rules: Any) -> list[str]:
    return [str(key) for key in keys(found, *rename, **rules)]


# Two frames of two steps each, as a tool tells them that numbers its steps, or does not.
STEPS = [{"name": "a", "step": step} for step in (0, 1, 0, 1)]
NO_STEPS = [{"name": "a"}] * 4


@pytest.mark.parametrize(
    ("found", "rules", "expected"),
    [
        (STEPS, {}, ["u0/forward0/a", "u0/forward1/a", "u0/forward0/a#1", "u0/forward1/a#1"]),
        (STEPS, {"units_from": "call"}, ["u0/forward0/a", "u0/forward1/a", "u1/forward0/a", "u1/forward1/a"]),
        (STEPS, {"units_from": "step"}, ["u0/forward0/a", "u1/forward0/a", "u0/forward0/a#1", "u1/forward0/a#1"]),
        (
            STEPS,
            {"units_from": "step", "steps_from": "call"},
            ["u0/forward0/a", "u1/forward0/a", "u0/forward1/a", "u1/forward1/a"],
        ),
        (NO_STEPS, {"steps_from": "call"}, [f"u0/forward{step}/a" for step in range(4)]),
        (
            NO_STEPS,
            {"steps_from": "call", "steps_per_unit": 2},
            ["u0/forward0/a", "u0/forward1/a", "u1/forward0/a", "u1/forward1/a"],
        ),
        (
            [{"name": "a", "step": step} for step in range(4)],
            {"steps_per_unit": 2, "phase": "denoise"},
            ["u0/denoise0/a", "u0/denoise1/a", "u1/denoise0/a", "u1/denoise1/a"],
        ),
        (
            NO_STEPS,
            {"branches": ("cond", "uncond"), "steps_from": "call"},
            ["u0/forward0/a@cond", "u0/forward0/a@uncond", "u0/forward1/a@cond", "u0/forward1/a@uncond"],
        ),
        ([{"name": "a", "frame": 3, "phase": "gen1"}], {}, ["u3/gen1_0/a"]),
        ([{"name": "a", "call": 2}], {}, ["u0/forward0/a#2"]),
        ([{"name": "a@b#1"}], {}, ["u0/forward0/a_b_1"]),
    ],
)
def test_numbers_become_units_and_steps_by_rule(
    found: list[dict[str, Any]], rules: dict[str, Any], expected: list[str]
) -> None:
    assert names(found, **rules) == expected
    # Every name is that of one key.
    assert [str(Key.parse(name)) for name in expected] == expected


@pytest.mark.parametrize(
    "rules",
    [
        {"units_from": "call", "steps_from": "call"},
        {"units_from": "call", "steps_from": "step", "steps_per_unit": 2},
        {"steps_per_unit": 0},
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        KeyRules(**rules)


def test_two_values_by_one_name_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        keys([{"name": "a"}, {"name": "b"}], "^b=a")
    assert "u0/forward0/a" in caught.value.found
    with pytest.raises(UserError):
        keys([{"name": "a", "call": 0}] * 2)
    with pytest.raises(UserError):
        keys([{"name": "a", "frame": 0}, {"name": "a", "frame": 1}], units_from="call")


@pytest.mark.parametrize("found", [{"frame": 1 << 20}, {"step": -1}, {"step": 1 << 48}, {"call": -1}])
def test_numbers_that_no_key_has_are_refused(found: dict[str, int]) -> None:
    with pytest.raises(UserError):
        keys([{"name": "a", **found}])


def test_names_are_replaced_one_rule_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text("# of our port\n\n^layers\\.(\\d+)=transformer.blocks.\\1\n\\.o$=.out_proj\n")
    assert names([{"name": "layers.12.attn.o"}], str(file)) == ["u0/forward0/transformer.blocks.12.attn.out_proj"]
    assert names([{"name": "a=b"}], r"a\=b=c=d") == ["u0/forward0/c=d"]


def test_a_name_that_reads_like_a_key_is_one() -> None:
    assert names([{"name": "ring.ring_003.k"}], r"^ring\.ring_(\d+)=u\1/cache0/ring") == ["u3/cache0/ring.k"]
    assert keys([{"name": "f2/denoise1/attn@cond#3"}]) == [Key(2, "denoise", 1, "attn", "cond", 3)]


def test_a_name_that_becomes_empty_is_left_out() -> None:
    assert keys([{"name": "m.bias"}, {"name": "a"}], r"m\..*=") == [None, Key(0, "forward", 0, "a")]


@pytest.mark.parametrize("rule", ["[=a", r"a=\7", r"(a)=\g<"])
def test_a_rule_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(UserError) as caught:
        keys([{"name": "a"}], rule)
    assert rule.partition("=")[0] in caught.value.found


def test_a_file_of_rules_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("a=b\nnothing\n")
    with pytest.raises(UserError, match=r"rules, line 2"):
        Renames.read([str(tmp_path / "rules")])
    with pytest.raises(UserError):
        Renames.read([str(tmp_path / "none")])


def test_no_phase_ends_in_a_digit() -> None:
    assert [phase_name(text) for text in ("gen1", "denoise", "a/b", "")] == ["gen1_", "denoise", "a.b", "forward"]


def test_rules_hold_for_what_is_imported(tmp_path: Path) -> None:
    """Two frames of two steps, of which the trace tells the steps alone."""
    calls = imported("fastvideo/right.jsonl", tmp_path / "calls")
    assert calls.manifest.units == 1
    assert {record.call for record in calls.records.values()} == {0, 1}
    frames = imported("fastvideo/right.jsonl", tmp_path / "frames", units_from="call")
    assert frames.manifest.units == 2
    assert {(record.unit, record.step, record.call) for record in frames.records.values()} == {
        (unit, step, 0) for unit in range(2) for step in range(2)
    }
