from pathlib import Path
from typing import Any

import pytest

from tests.harness.observations import JUDGEMENT, key, normal, write_dump
from tests.harness.sweep.baseline.conftest import INPUTS, a_dump, a_run
from waypoint_parity.harness.cli.text.baseline import check_lines
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.baseline.check import CHECK_SCHEMA, Check, Outcome, check, read_check
from waypoint_parity.harness.sweep.baseline.document import open_baseline
from waypoint_parity.harness.sweep.baseline.runs import open_run
from waypoint_parity.harness.sweep.baseline.store import accept

LOUDER = 1.01


@pytest.fixture
def checked(tmp_path: Path, store: Path) -> Any:
    """The check of a dump against one that was accepted; `changes` go to the manifest of the later one."""
    accept(a_dump(tmp_path / "accepted"), "nightly", store)

    def run(scale: float = 1.0, *accepted: str, **changes: Any) -> Check:
        later = a_dump(tmp_path / "later", scale, **changes)
        return check(open_baseline(store / "nightly"), open_run(later, "candidate"), lambda _: JUDGEMENT, accepted)

    return run


@pytest.mark.parametrize(
    ("scale", "outcome", "holds"),
    [
        (1.0, Outcome.IDENTICAL, True),
        (1 + 1e-6, Outcome.WITHIN_NOISE, True),
        (LOUDER, Outcome.REGRESSED, False),
    ],
)
def test_under_the_same_provenance_the_numbers_decide(
    checked: Any, scale: float, outcome: Outcome, holds: bool
) -> None:
    found = checked(scale)
    assert found.outcome is outcome
    assert bool(found) is holds
    assert found.entries[0].differences == []


def test_a_regression_names_the_first_site_and_line(checked: Any) -> None:
    found = checked(LOUDER)
    first = found.entries[0].comparison.first
    assert (first.site, first.lines) == ("latent", (3, 3))
    lines = check_lines(found)
    assert lines[0] == "REGRESSED: against the baseline nightly, 1 REGRESSED"
    assert f"    first divergence: {first}" in lines


def test_another_commit_is_told_and_makes_nothing_stale(checked: Any) -> None:
    found = checked(LOUDER, source_revision="1cc1e47")
    assert found.outcome is Outcome.REGRESSED
    assert found.entries[0].notes == ["commit: baseline none, run 1cc1e47"]
    assert "  note:     commit: baseline none, run 1cc1e47" in check_lines(found)


@pytest.mark.parametrize("scale", [1.0, LOUDER])
def test_another_thread_count_is_stale_whatever_the_numbers_which_are_told(checked: Any, scale: float) -> None:
    found = checked(scale, threads=2, torch="2.14.0")
    (entry,) = found.entries
    assert found.outcome is entry.outcome is Outcome.STALE
    assert not found
    assert [str(of) for of in entry.differences][1] == "threads: baseline 1, run 2"
    assert entry.comparison.verdict is (Verdict.IDENTICAL if scale == 1 else Verdict.DIVERGED)
    lines = check_lines(found)
    assert "  differs:  threads: baseline 1, run 2" in lines
    assert "  the numbers below decide nothing" in lines


@pytest.mark.parametrize(
    "changes", [{"inputs": INPUTS | {"noise": "n1"}}, {"sigmas": [1.0, 0.0]}, {"checkpoint_digest": "0ther"}]
)
def test_where_something_else_was_given_nothing_is_compared(checked: Any, changes: dict[str, object]) -> None:
    found = checked(LOUDER, **changes)
    assert found.outcome is Outcome.STALE
    assert found.entries[0].comparison is None
    assert any("nothing was compared" in line for line in check_lines(found))


def test_an_accepted_difference_is_lifted_alone(checked: Any) -> None:
    both = {"threads": 2, "torch": "2.14.0"}
    assert checked(1.0, "threads", **both).outcome is Outcome.STALE
    found = checked(1.0, "threads", "torch", **both)
    assert found.outcome is Outcome.IDENTICAL
    assert [of.name for of in found.entries[0].accepted] == ["torch", "threads"]
    assert checked(LOUDER, "threads", "torch", **both).outcome is Outcome.REGRESSED


def test_accepted_inputs_are_compared_for_what_they_make(checked: Any) -> None:
    assert checked(1.0, "noise", inputs=INPUTS | {"noise": "n1"}).outcome is Outcome.IDENTICAL


def test_a_name_that_accepts_nothing_is_refused(checked: Any) -> None:
    with pytest.raises(UserError, match="nothing in the provenance has this name"):
        checked(1.0, "thread")


def test_a_version_of_the_same_implementation_is_provenance_and_of_another_it_is_not(checked: Any) -> None:
    newer = {"description": {"version": "0.2"}}
    assert checked(1.0, **newer).outcome is Outcome.STALE
    port = checked(1.0, implementation="my_port.py:MyPort", **newer)
    assert port.outcome is Outcome.IDENTICAL
    assert "what each says of itself was not compared" in port.entries[0].notes[0]


def test_an_option_is_no_other_implementation(checked: Any) -> None:
    options = {"dtype": "fp32", "device": "cpu", "compiled": "false", "options": "patched"}
    found = checked(1.0, implementation="eager+patched", numerics=options)
    assert [str(of) for of in found.entries[0].differences] == ["backend.options: baseline none, run patched"]


def test_what_consumes_something_else_than_it_was_given_has_regressed(
    checked: Any, tmp_path: Path, store: Path
) -> None:
    """The manifests say that the same noise was given; the records, that other noise was consumed."""
    other = write_dump(
        tmp_path / "other",
        [(key(site), normal(8, 8, seed=9)) for site in ("input.noise", "patchify", "latent", "velocity")],
        inputs=INPUTS,
        description={"version": "0.1", "attention": "sdpa"},
    )
    found = check(open_baseline(store / "nightly"), open_run(other, "candidate"), lambda _: JUDGEMENT)
    assert found.outcome is Outcome.REGRESSED
    assert any("input.noise differs at unit 0" in line for line in check_lines(found))


def test_a_site_that_is_not_seen_any_more_is_no_pass(checked: Any, tmp_path: Path, store: Path) -> None:
    less = write_dump(
        tmp_path / "less",
        [(key("input.noise"), normal(8, 8)), (key("patchify"), normal(8, 8, seed=1))],
        inputs=INPUTS,
        description={"version": "0.1", "attention": "sdpa"},
    )
    assert not check(open_baseline(store / "nightly"), open_run(less, "candidate"), lambda _: JUDGEMENT)


def test_every_cell_of_a_run_is_checked_and_one_that_it_lacks_is_no_pass(tmp_path: Path, store: Path) -> None:
    accept(a_run(tmp_path / "run"), "nightly", store)
    other = open_run(a_run(tmp_path / "other", cells=("walk", "jump")), "candidate")
    found = check(open_baseline(store / "nightly"), other, lambda _: JUDGEMENT)
    assert {entry.name: entry.outcome for entry in found.entries} == {
        "walk": Outcome.IDENTICAL,
        "run": Outcome.MISSING,
    }
    assert found.outcome is Outcome.MISSING
    assert not found
    assert found.not_in_baseline == ["jump"]
    assert check_lines(found)[-1] == "not in the baseline, and not checked: jump"


def test_a_regression_is_not_hidden_by_what_is_stale(tmp_path: Path, store: Path) -> None:
    accept(a_run(tmp_path / "run"), "nightly", store)
    run = a_run(tmp_path / "other", LOUDER)
    a_dump(run / "cells" / "run" / "candidate", implementation="candidate", threads=2)
    found = check(open_baseline(store / "nightly"), open_run(run, "candidate"), lambda _: JUDGEMENT)
    assert [entry.outcome for entry in found.entries] == [Outcome.REGRESSED, Outcome.STALE]
    assert found.outcome is Outcome.REGRESSED


def test_a_check_is_read_as_it_was_written(checked: Any, tmp_path: Path) -> None:
    found = checked(LOUDER, threads=2)
    (tmp_path / "check.json").write_bytes(to_json(found))
    assert read_check(tmp_path / "check.json") == found
    assert found.schema == CHECK_SCHEMA
