"""Errors from full tensors that two dumps keep of the same observations: exact, where sketches estimate."""

from pathlib import Path

from waypoint_parity.harness.compare.columns import Columns, Places
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.record.records import TENSORS_NAME


class TensorsOfDumps:
    """The tensors of the dumps in two folders. Where either keeps none, nothing is read and torch is not loaded."""

    def __init__(self, actual: Path, expected: Path) -> None:
        self._folders = actual, expected

    def errors(self, actual: Columns, expected: Columns, places: Places) -> dict[int, Error]:
        """The errors of those pairs [n] of which both dumps keep the tensors, by their index.

        Raises UserError for a file that is broken, and for a tensor that its record contradicts.
        """
        if not all((folder / TENSORS_NAME).is_file() for folder in self._folders):
            return {}
        from waypoint_parity.harness.compare.tensor_error import tensor_error
        from waypoint_parity.harness.record.kept_tensors import kept_tensors

        # Opened for each block of records: a table, and this with it, goes to other processes.
        with kept_tensors(self._folders[0]) as ours, kept_tensors(self._folders[1]) as theirs:
            common = ours.names & theirs.names
            names = (str(places.key(code)) for code in expected.codes.tolist())
            both = [index for index, name in enumerate(names) if name in common]
            return {
                index: tensor_error(ours.tensor(actual.record(index)), theirs.tensor(expected.record(index)))
                for index in both
            }
