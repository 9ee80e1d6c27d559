import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.sweep.loaded import ABSENT, digest_now
from waypoint_parity.harness.sweep.store import CELL_NAME, CELL_SCHEMA, CELLS, CellFile, Store, read_cell, write_cell

DIGEST, OTHER = "ab" * 32, "cd" * 32


def cell(digest: str = DIGEST, loaded: dict[str, str] | None = None) -> CellFile:
    identity = {"torch": "2.13.0"}
    return CellFile(schema=CELL_SCHEMA, name="walk", digest=digest, identity=identity, loaded=loaded or {}, seconds=1.5)


def make(store: Store, content: str = "", digest: str = DIGEST) -> None:
    with store.making("walk", digest) as folder:
        (folder / "content").write_text(content)
        write_cell(folder, cell(digest))


def test_a_cell_that_was_made_is_found_by_its_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find(DIGEST) is None
    make(store)
    assert store.made(DIGEST) == store.find(DIGEST) == tmp_path / CELLS / "walk-abababababab"
    assert read_cell(store.made(DIGEST)) == cell()
    assert store.find(OTHER) is None


def test_a_cell_is_reusable_while_what_it_loaded_is_as_it_was(tmp_path: Path) -> None:
    engine, store = tmp_path / "engine.py", Store(tmp_path / "out")
    engine.write_text("SCALE = 1.0")
    files = {str(engine): digest_now(str(engine)), str(tmp_path / "override.py"): ABSENT}
    with store.making("walk", DIGEST) as folder:
        write_cell(folder, cell(loaded=files))
    assert store.reusable(DIGEST) == store.made(DIGEST)
    assert store.reusable(OTHER) is None
    engine.write_text("SCALE = 1.1")
    assert store.reusable(DIGEST) is None
    engine.write_text("SCALE = 1.0")
    assert store.reusable(DIGEST) is not None
    (tmp_path / "override.py").write_text("SCALE = 1.1")
    assert store.reusable(DIGEST) is None
    assert store.find(DIGEST) is not None


def test_a_digest_that_begins_alike_is_another_cell(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    assert store.find(DIGEST[:-1] + "c") is None


def test_a_cell_whose_making_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def fail_half_way() -> None:
        with store.making("walk", DIGEST) as folder:
            (folder / "content").write_text("half")
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail_half_way()
    assert store.find(DIGEST) is None
    assert list((tmp_path / CELLS).iterdir()) == []


def test_of_two_that_make_one_cell_the_first_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.making("walk", DIGEST) as slower:
        make(store, "faster")
        (slower / "content").write_text("slower")
        write_cell(slower, cell())
    assert (store.made(DIGEST) / "content").read_text() == "faster"
    assert [folder.name for folder in (tmp_path / CELLS).iterdir()] == ["walk-abababababab"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    foreign = tmp_path / CELLS / "walk-abababababab" / "photographs"
    foreign.mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        make(Store(tmp_path))
    assert foreign.is_dir()


def test_a_cell_can_be_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    store.remove(DIGEST)
    assert store.find(DIGEST) is None
    store.remove(DIGEST)


def test_a_broken_cell_is_refused_by_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    (store.made(DIGEST) / CELL_NAME).write_text('{"schema": "waypoint-parity/cell/1"}')
    with pytest.raises(UserError, match=r"cell\.json: cannot be read as a cell"):
        store.find(DIGEST)


def test_only_what_nobody_works_at_is_cleared(tmp_path: Path) -> None:
    gone = multiprocessing.get_context("spawn").Process(target=len, args=("",))
    gone.start()
    gone.join(timeout=60)
    assert gone.exitcode == 0
    host = socket.gethostname()
    ours, theirs, left = (
        tmp_path / CELLS / f".making-{name}-12345678"
        for name in (f"{host}-{os.getpid()}", f"elsewhere-{gone.pid}", f"{host}-{gone.pid}")
    )
    for folder in (ours, theirs, left):
        folder.mkdir(parents=True)
    make(Store(tmp_path))
    Store(tmp_path).clear()
    assert (ours.is_dir(), theirs.is_dir(), left.is_dir()) == (True, True, False)
    assert Store(tmp_path).find(DIGEST) is not None
