from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, refused, run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.result import Blame, read_blame
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.run.scenario import write_scenario

ROTATION_LEFT_OUT = "tests/parity/faulty.py:RotationLeftOut"


@pytest.fixture(scope="module")
def given(tiny_folder: Path, tiny: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """A session of one frame on the tiny checkpoint."""
    path = tmp_path_factory.mktemp("scenario") / "one.safetensors"
    write_scenario(make_scenario(tiny.geometry, name="one", units=1, seed=3), path)
    return ("--checkpoint", tiny_folder, "--scenario", path, "--threads", 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blame") / "out"


@pytest.fixture(scope="module")
def searched(given: tuple[object, ...], folder: Path) -> Outcome:
    exchanges = ("--exchange", "mlp", "block 0")
    return run("blame", "--candidate", ROTATION_LEFT_OUT, *given, "--out", folder, *exchanges, "--ladder")


@pytest.fixture(scope="module")
def blame(searched: Outcome, folder: Path) -> Blame:
    return read_blame(folder / "blame.json")


def test_the_cause_is_named_with_its_share_and_what_to_check(searched: Outcome) -> None:
    assert searched.code == 1, searched
    printed = searched.out.splitlines()
    assert printed[0] == f"DIVERGED: {ROTATION_LEFT_OUT} against eager"
    assert printed[2].startswith("  cause 1 of 1:     rotation of every block that has it (rope): ")
    for line in (
        "    necessary:      with the reference's, 100% (mean |d|)",
        "    sufficient:     put into the reference, it makes 100% (mean |d|)",
        "    gain:           a relative error of 1 at transformer.blocks.0.attn.q_rope changes the picture by ",
        "    may be:         rotation not applied",
        f"  restored:         parity holds once {ROTATION_LEFT_OUT} has it from eager",
    ):
        assert any(found.startswith(line) for found in printed), line
    assert "\r" not in searched.err, "no progress bar away from a terminal"


def test_the_ladder_tells_own_errors_from_inherited_ones(searched: Outcome, blame: Blame) -> None:
    marked = [line for line in searched.out.splitlines() if line.endswith("<- by itself")]
    assert len(marked) == 3 * 2 * 3, "queries and keys of three blocks, in two denoise steps and the cache pass"
    assert all("_rope " in line for line in marked)
    (velocity,) = (rung for rung in blame.sites if (rung.site, rung.step) == ("velocity", 0))
    assert velocity.local is not None
    assert velocity.inherited is not None
    assert velocity.local <= velocity.bound < velocity.inherited


def test_what_else_was_to_be_exchanged_is_told(searched: Outcome, blame: Blame) -> None:
    assert [exchange.name for exchange in blame.exchanges] == ["mlp", "block 0"]
    shares = [exchange.necessity.mean_abs for exchange in blame.exchanges if exchange.necessity is not None]
    innocent, one_of_three = shares
    assert innocent == pytest.approx(0.0, abs=1e-3)
    assert one_of_three is not None
    assert one_of_three < 0.99
    assert "  exchanged:        block 0" in searched.out


def test_a_search_is_resumed_and_tells_the_same(given: tuple[object, ...], folder: Path, blame: Blame) -> None:
    runs = {path: path.stat().st_mtime_ns for path in folder.glob("*.run.json")}
    outcome = run("blame", "--candidate", ROTATION_LEFT_OUT, *given, "--out", folder, "--resume")
    assert outcome.code == 1, outcome
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.run.json")} == runs, "nothing was run again"
    assert read_blame(folder / "blame.json").causes == blame.causes


def test_another_search_is_not_resumed(given: tuple[object, ...], folder: Path, searched: Outcome) -> None:
    assert searched.code == 1
    message = refused("blame", *given, "--out", folder, "--resume")
    assert message["what"] == f"{folder}: holds another search"
    assert message["found"] == f"candidate {ROTATION_LEFT_OUT}"


def test_nothing_is_to_blame_where_parity_holds(given: tuple[object, ...], tmp_path: Path) -> None:
    outcome = run("blame", *given, "--out", tmp_path / "out")
    assert outcome.code == 0, outcome
    assert outcome.out.splitlines()[-1] == "  no site does anything wrong by itself"


def test_a_budget_leaves_out_what_it_does_not_allow(given: tuple[object, ...], tmp_path: Path) -> None:
    message = refused("blame", *given, "--out", tmp_path / "out", "--budget", -1)
    assert message["what"] == "the budget is used up before anything was found"
    assert message["found"] == "no time left to begin the run: free"


def test_what_cannot_be_exchanged_is_refused(given: tuple[object, ...], tmp_path: Path) -> None:
    message = refused("blame", *given, "--out", tmp_path / "out", "--exchange", "block 9")
    assert message["what"] == "block 9: nothing that can be exchanged is called so"


def test_a_dump_of_some_units_is_searched_in_those(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file)
    taken = ("--tensors", "--frames")
    assert run("dump", ROTATION_LEFT_OUT, *inputs, "--out", tmp_path / "first", *taken, 0).code == 0
    outcome = run(
        "blame", "--candidate", f"dump:{tmp_path / 'first'}", *inputs, "--no-gains", "--out", tmp_path / "out"
    )
    assert outcome.code == 1, outcome
    found = read_blame(tmp_path / "out" / "blame.json")
    assert [cause.part for cause in found.causes] == ["rotation"]
    assert any(proof.by == "hypothesis" for proof in found.causes[0].proofs)
    assert any(each.startswith("units from 1 on") for each in found.unmeasured)
    assert run("dump", "eager", *inputs, "--out", tmp_path / "second", *taken, 1).code == 0
    parts = refused("blame", "--candidate", f"dump:{tmp_path / 'second'}", *inputs, "--out", tmp_path / "none")
    assert "first unit" in parts["found"]
