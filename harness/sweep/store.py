"""The cells of sweeps on disk, each in a folder that is there as a whole or not at all.

A cell is made in a folder of its own and then renamed to its address. So a sweep can be killed at any moment, and
several can work below one folder: where two make the same cell, the first one stays.
"""

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from waypoint_parity.harness.files import read_document, writing
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.loaded import is_unchanged

CELL_SCHEMA = "waypoint-parity/cell/2"
CELL_NAME = "cell.json"
CELLS, FAILED = "cells", "failed"
# Of a digest, in the name of a folder.
_SHORT = 12
_UNFINISHED = ".making-"


class CellFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell's folder says of itself: everything its result depends on, and the digest of that."""

    schema: str
    name: str
    digest: str
    identity: dict[str, str]
    # The digest of every file that the process had loaded by its end (harness.sweep.loaded).
    loaded: dict[str, str]
    seconds: float


class Store:
    """The cells below the folder of a sweep."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def find(self, digest: str) -> Path | None:
        """The folder of the cell with this address; None where it was not made. Raises UserError for a broken one."""
        for folder in (self.out / CELLS).glob(f"*-{digest[:_SHORT]}"):
            if read_cell(folder).digest == digest:
                return folder
        return None

    def reusable(self, digest: str) -> Path | None:
        """The folder of the cell with this address, where all that it was run with is as it was; else None."""
        folder = self.find(digest)
        return folder if folder is not None and is_unchanged(read_cell(folder).loaded) else None

    def made(self, digest: str) -> Path:
        """The folder of a cell that has been made. Raises RuntimeError where it is gone."""
        folder = self.find(digest)
        if folder is None:
            raise RuntimeError(f"the cell {digest[:_SHORT]} was made, and its folder is gone from {self.out}")
        return folder

    def remove(self, digest: str) -> None:
        """Forget the cell with this address."""
        folder = self.find(digest)
        if folder is not None:
            with writing(folder):
                shutil.rmtree(folder)

    @contextmanager
    def making(self, name: str, digest: str) -> Iterator[Path]:
        """A folder to make a cell in, which becomes the cell's when the context is left without an error.

        After an error it lies where `failed` says, if there is anything in it: what was recorded up to there.
        """
        place = self.out / CELLS / f"{_UNFINISHED}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        with writing(place):
            place.mkdir(parents=True)
        try:
            yield place
            with writing(place):
                _move(place, self.out / CELLS / f"{name}-{digest[:_SHORT]}")
            shutil.rmtree(self.failed(name), ignore_errors=True)
        except Exception:
            self._keep(place, self.failed(name))
            raise
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def failed(self, name: str) -> Path:
        """Where the dumps of a cell lie that failed, as far as they go."""
        return self.out / FAILED / name

    def _keep(self, place: Path, failed: Path) -> None:
        if any(place.glob("*/")):
            with writing(failed):
                failed.parent.mkdir(parents=True, exist_ok=True)
                shutil.rmtree(failed, ignore_errors=True)
                place.rename(failed)

    def clear(self) -> None:
        """Remove what processes of this machine left unfinished that are no more."""
        for place in (self.out / CELLS).glob(f"{_UNFINISHED}{socket.gethostname()}-*"):
            if not _is_alive(int(place.name.split("-")[-2])):
                shutil.rmtree(place, ignore_errors=True)


def read_cell(folder: Path) -> CellFile:
    """What a cell's folder says of itself. Raises UserError for a folder that is none."""
    return read_document(
        folder / CELL_NAME, CellFile, CELL_SCHEMA, called="a cell", do="remove the folder, and run the sweep again"
    )


def write_cell(folder: Path, cell: CellFile) -> None:
    """Write what a cell's folder says of itself, the last of its files."""
    with writing(folder):
        (folder / CELL_NAME).write_bytes(to_json(cell))


def _move(place: Path, target: Path) -> None:
    try:
        place.rename(target)
    except OSError:
        # Another sweep was faster; anything else that lies there is not ours to touch.
        if not (target / CELL_NAME).is_file():
            raise


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
