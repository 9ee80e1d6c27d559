import json
from pathlib import Path

from tests.cli.conftest import refused, run

SUITE = ("--suite", "tests/harness/explain/scorecard/suites.py:FEW")


def test_a_scorecard_is_printed_and_written(tmp_path: Path) -> None:
    path = tmp_path / "scorecard.json"
    only = ("--only", "rope-missing", "clean")
    outcome = run("scorecard", *SUITE, *only, "--no-sizes", "--jobs", 1, "--json", path)
    assert outcome.code == 0, outcome
    assert "faults           1: 1 detected, 1 at the right first site" in outcome.out
    assert "without fault    1: 0 false alarms" in outcome.out
    card = json.loads(path.read_text("utf-8"))
    sums = ("faults", "detected", "first_site_right", "group_right", "blame_top1", "false_alarms", "clean_runs")
    assert [card[name] for name in sums] == [1, 1, 1, 1, 1, 0, 1]
    (row,) = card["rows"]
    assert (row["name"], row["rank"], row["blamed"]) == ("rope-missing", 1, ["rotation"])
    assert row["first"] == row["expected"] == "u0/denoise0/transformer.blocks.0.attn.q_rope"


def test_a_suite_that_is_none_is_refused() -> None:
    message = refused("scorecard", "--suite", "waypoint_parity.fixtures.faults:NOTHING")
    assert message["what"] == "waypoint_parity.fixtures.faults:NOTHING: is no suite of faults"
