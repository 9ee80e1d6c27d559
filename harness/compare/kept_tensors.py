"""Full tensors that two dumps keep of the same observations: their errors are exact, where sketches estimate."""

from collections.abc import Iterable
from pathlib import Path

from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.record.records import TENSORS_NAME
from waypoint_parity.harness.run.keys import Key


class KeptTensors:
    """The tensors of the dumps in two folders. Where either keeps none, nothing is read and torch is not loaded."""

    def __init__(self, actual: Path, expected: Path) -> None:
        self._files = [folder / TENSORS_NAME for folder in (actual, expected)]

    def errors(self, keys: Iterable[Key]) -> dict[int, Error]:
        """The errors of those observations that both dumps keep, by their place among `keys`."""
        if not all(file.is_file() for file in self._files):
            return {}
        from safetensors import safe_open

        from waypoint_parity.harness.compare.tensor_error import tensor_error

        # Opened for each block of records: a table, and this with it, goes to other processes.
        with safe_open(self._files[0], "pt") as actual, safe_open(self._files[1], "pt") as expected:
            common = set(actual.keys()) & set(expected.keys())
            names = ((index, str(key)) for index, key in enumerate(keys))
            return {
                index: tensor_error(actual.get_tensor(name), expected.get_tensor(name))
                for index, name in names
                if name in common
            }
