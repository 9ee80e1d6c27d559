import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import refused, run, script
from tests.harness.observations import foreign
from waypoint_parity.harness.sweep.baseline.check import Outcome, read_check


@pytest.fixture
def store(dumps: Path, tmp_path: Path) -> Path:
    """A store with the candidate's dump as `nightly`."""
    store = tmp_path / "baselines"
    accepted = run("baseline", "accept", "nightly", dumps / "candidate", "--store", store)
    assert (accepted.code, accepted.err) == (0, "")
    assert accepted.out.startswith(f"{store / 'nightly'}: 1 dump of candidate, 4 files, accepted 2")
    return store


@pytest.mark.parametrize("command", ["accept", "check", "list", "push", "pull"])
def test_the_help_of_a_command_shows_an_example(command: str) -> None:
    outcome = script("baseline", command, "--help")
    assert outcome.code == 0
    assert f"Example: waypoint-parity baseline {command}" in " ".join(outcome.out.split())


def test_a_store_is_listed(store: Path, tmp_path: Path) -> None:
    assert run("baseline", "list", "--store", store).out.startswith("nightly: 1 dump of candidate")
    (store / "nightly" / "baseline.json").write_text("{")
    assert run("baseline", "list", "--store", store).out.startswith("nightly: damaged")
    assert run("baseline", "list", "--store", tmp_path / "nowhere").out == "no baselines\n"


def test_the_same_run_is_identical_and_another_implementation_within_noise(
    store: Path, dumps: Path, tmp_path: Path
) -> None:
    same = run("baseline", "check", "nightly", dumps / "candidate", "--store", store)
    assert (same.code, same.out.splitlines()[1]) == (0, "dump: IDENTICAL")
    other = run("baseline", "check", "nightly", dumps / "reference", "--store", store, "--json", tmp_path / "c.json")
    assert other.code == 0, other
    assert read_check(tmp_path / "c.json").outcome is Outcome.WITHIN_NOISE
    assert "what each says of itself was not compared" in other.out


def test_a_regression_ends_with_1(store: Path, dumps: Path) -> None:
    judged = ("--store", store, "--tolerance", 1e-12)
    found = run("baseline", "check", "nightly", dumps / "reference", *judged)
    assert found.code == 1
    assert "    first divergence: " in found.out


def test_a_stale_baseline_ends_with_2_and_can_be_accepted(store: Path, candidate: Path) -> None:
    manifest = foreign(candidate) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threads": 1', '"threads": 64'))
    check = ("baseline", "check", "nightly", candidate, "--store", store)
    stale = run(*check)
    assert (stale.code, stale.err) == (2, "")
    assert "  differs:  threads: baseline 1, run 64\n" in stale.out
    assert run(*check, "--accept-provenance", "threads").code == 0


def test_a_damaged_baseline_is_an_error_and_no_regression(store: Path, candidate: Path) -> None:
    (store / "nightly" / "dump" / "frames" / "000001.png").unlink()
    parts = refused("baseline", "check", "nightly", candidate, "--store", store)
    assert parts["what"] == f"{store / 'nightly'}: the baseline is damaged"
    assert parts["found"] == "no dump/frames/000001.png"


def test_a_taken_name_is_refused_without_force(store: Path, dumps: Path) -> None:
    accept = ("baseline", "accept", "nightly", dumps / "reference", "--store", store)
    assert "exists already" in refused(*accept)["what"]
    assert run(*accept, "--force").code == 0


def test_a_run_that_is_none_is_refused(store: Path, candidate: Path) -> None:
    shutil.rmtree(candidate)
    assert "is no run" in refused("baseline", "check", "nightly", candidate, "--store", store)["what"]
