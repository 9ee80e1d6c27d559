"""Errors from full tensors that two dumps keep of the same observations: exact, where sketches estimate."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from waypoint_parity.harness.compare.columns import Columns, Places
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.record.records import TENSORS_NAME

if TYPE_CHECKING:
    from waypoint_parity.harness.record.kept_tensors import KeptTensors


class TensorsOfDumps:
    """The tensors of the dumps in two folders. Where either keeps none, nothing is read and torch is not loaded."""

    def __init__(self, actual: Path, expected: Path) -> None:
        self._folders = actual, expected

    def __reduce__(self) -> tuple[type[Self], tuple[Path, Path]]:
        # A table goes to other processes, and this with it: there the files are opened anew.
        return type(self), self._folders

    @cached_property
    def _opened(self) -> "tuple[KeptTensors, KeptTensors] | None":
        if not all((folder / TENSORS_NAME).is_file() for folder in self._folders):
            return None
        from waypoint_parity.harness.record.kept_tensors import open_tensors

        return open_tensors(self._folders[0]), open_tensors(self._folders[1])

    def errors(self, actual: Columns, expected: Columns, places: Places) -> dict[int, Error]:
        """The errors of those pairs [n] of which both dumps keep the tensors, by their index.

        Raises UserError for a file that is broken, and for a tensor that its record contradicts.
        """
        if self._opened is None:
            return {}
        from waypoint_parity.harness.compare.tensor_error import tensor_error

        ours, theirs = self._opened
        names = enumerate(str(places.key(code)) for code in expected.codes.tolist())
        return {
            index: tensor_error(ours.tensor(actual.record(index)), theirs.tensor(expected.record(index)))
            for index, name in names
            if name in ours.names and name in theirs.names
        }
