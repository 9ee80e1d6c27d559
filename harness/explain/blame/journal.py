"""The journal of a search: every finished run on disk, so that an interrupted search goes on where it was."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import replacing, writing
from waypoint_parity.harness.progress import silent, working
from waypoint_parity.harness.record.records import to_json

IDENTITY_NAME = "identity.json"
SUFFIX = ".run.json"
_UNFIT = re.compile(r"[^\w.]+")
Result = TypeVar("Result")


class OutOfBudgetError(UserError):
    """The time that a search was given is used up; a search without its first runs has nothing to tell."""

    def __init__(self, run: str) -> None:
        super().__init__(
            "the budget is used up before anything was found",
            found=f"no time left to begin the run: {run}",
            expected="time for the free-running sessions, their noise and the local errors",
            do="raise --budget, or go on with --resume",
        )


class Journal:
    """Results of runs by name, in a folder.

    `resume`: go by the results that the folder holds already; else they are removed. `budget`: seconds after which no
    new run is begun; results that are known cost none. `announce` is told the name of every run that is begun.
    """

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, str],
        *,
        resume: bool = False,
        budget: float | None = None,
        announce: Callable[[str], None] = silent,
    ) -> None:
        """`identity`: what the results depend on.

        Raises UserError where the folder cannot be written, and where one is to be resumed that is another search's.
        """
        self.folder = folder
        self._end = None if budget is None else time.monotonic() + budget
        self._announce = announce
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        known = folder / IDENTITY_NAME
        if resume and known.is_file():
            _check_identity(known, identity)
            return
        with writing(folder):
            for path in folder.glob(f"*{SUFFIX}"):
                path.unlink()
        with replacing(known) as partial:
            partial.write_bytes(to_json(dict(identity)))

    def once(self, name: str, kind: type[Result], run: Callable[[], Result]) -> Result:
        """The result of the run called `name`: from the journal, or run now. Raises OutOfBudgetError."""
        # The digest tells names apart that differ in what no file name can hold.
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        path = self.folder / f"{_UNFIT.sub('-', name)}.{digest}{SUFFIX}"
        if path.is_file():
            return msgspec.json.decode(path.read_bytes(), type=kind)
        if self._end is not None and time.monotonic() > self._end:
            raise OutOfBudgetError(name)
        self._announce(name)
        with working(name):
            result = run()
        with replacing(path) as partial:
            partial.write_bytes(to_json(result))
        return result


def _check_identity(path: Path, identity: Mapping[str, str]) -> None:
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(
            f"{path}: cannot be read", found=str(error), expected="what a search wrote", do="search without --resume"
        ) from error
    differing = sorted(name for name in known.keys() | identity.keys() if known.get(name) != identity.get(name))
    if differing:
        name = differing[0]
        raise UserError(
            f"{path.parent}: holds another search",
            found=f"{name} {known.get(name)}",
            expected=f"{name} {identity.get(name)}",
            do="name another --out, or search without --resume",
        )
