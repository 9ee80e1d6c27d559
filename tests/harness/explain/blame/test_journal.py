from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.journal import IDENTITY_NAME, Journal, OutOfBudgetError

IDENTITY = {"candidate": "mine", "checkpoint": "c0ffee"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    value: float | None


def once(journal: Journal, name: str, value: float | None = 1.0) -> Result:
    return journal.once(name, Result, lambda: Result(value=value))


def never() -> Result:
    raise AssertionError("a run that had been finished ran again")


def test_a_run_is_announced_and_made_once(tmp_path: Path) -> None:
    begun: list[str] = []
    journal = Journal(tmp_path, IDENTITY, announce=begun.append)
    assert once(journal, "free") == once(journal, "free", 2.0) == Result(value=1.0)
    assert once(journal, "noise", 3.0) == Result(value=3.0)
    assert begun == ["free", "noise"]


def test_a_search_that_is_resumed_goes_by_what_is_known_and_announces_only_what_is_new(tmp_path: Path) -> None:
    once(Journal(tmp_path, IDENTITY), "free", None)
    begun: list[str] = []
    resumed = Journal(tmp_path, IDENTITY, resume=True, announce=begun.append)
    assert resumed.once("free", Result, never) == Result(value=None)
    once(resumed, "local 0")
    assert begun == ["local 0"]


def test_a_search_that_is_not_resumed_begins_anew(tmp_path: Path) -> None:
    once(Journal(tmp_path, IDENTITY), "free", 1.0)
    assert once(Journal(tmp_path, IDENTITY), "free", 2.0) == Result(value=2.0)


def test_there_may_be_nothing_to_resume_yet(tmp_path: Path) -> None:
    assert once(Journal(tmp_path / "new", IDENTITY, resume=True), "free") == Result(value=1.0)
    assert Journal(tmp_path / "new", IDENTITY, resume=True).once("free", Result, never) == Result(value=1.0)


def test_a_run_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Result:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        Journal(tmp_path, IDENTITY).once("free", Result, fail)
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_NAME]


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        (IDENTITY | {"candidate": "theirs"}, "candidate"),
        (IDENTITY | {"scenario": "more"}, "scenario"),
        ({"candidate": "mine"}, "checkpoint"),
    ],
)
def test_another_search_is_not_resumed(tmp_path: Path, identity: dict[str, str], name: str) -> None:
    once(Journal(tmp_path, IDENTITY), "free")
    with pytest.raises(UserError, match=rf"holds another search[\s\S]*found: *{name}[\s\S]*name another --out"):
        Journal(tmp_path, identity, resume=True)
    assert Journal(tmp_path, IDENTITY, resume=True).once("free", Result, never) == Result(value=1.0)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"candidate": 3}'])
def test_a_broken_identity_is_not_resumed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / IDENTITY_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read[\s\S]*search without --resume"):
        Journal(tmp_path, IDENTITY, resume=True)
    assert once(Journal(tmp_path, IDENTITY), "free") == Result(value=1.0)


@pytest.mark.parametrize("folder", [lambda path: path / "file", lambda path: path / "file" / "below"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, folder: Callable[[Path], Path]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file"):
        Journal(folder(tmp_path), IDENTITY)


def test_a_budget_that_is_used_up_begins_no_run_and_gives_out_what_is_known(tmp_path: Path) -> None:
    once(Journal(tmp_path, IDENTITY), "free")
    spent = Journal(tmp_path, IDENTITY, resume=True, budget=0.0)
    assert spent.once("free", Result, never) == Result(value=1.0)
    with pytest.raises(OutOfBudgetError, match=r"begin the run: noise[\s\S]*raise --budget"):
        spent.once("noise", Result, never)
    assert once(Journal(tmp_path, IDENTITY, budget=3600.0), "noise") == Result(value=1.0)


def test_every_name_is_a_run_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    names = ["necessity of mlp of blocks 0, 2", "necessity of mlp of block 2", "necessity of decoder/../*"]
    for number, name in enumerate(names):
        assert once(journal, name, number) == Result(value=number)
    assert {path.parent for path in tmp_path.rglob("*")} == {tmp_path}


def test_names_that_differ_in_a_wildcard_alone_are_two_runs(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    names = [f"necessity of transformer.blocks.{glob}.attn" for glob in ("?", "*", "[01]", "[!01]")]
    assert [once(journal, name, number).value for number, name in enumerate(names)] == [0, 1, 2, 3]
