"""Two dumps of some tensors: the second one is wrong at a site in the middle."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.harness.api.nets import draw
from waypoint_parity.harness.record.foreign.importing import Wanted, import_dump


@pytest.fixture(scope="session")
def two_dumps(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The right one, and one whose `b` is off by a hundredth."""
    folder, dumps = tmp_path_factory.mktemp("dumps"), []
    for name, factor in (("right", 1.0), ("wrong", 1.01)):
        tensors = {"a": draw(40, 7), "b": draw(40, 8) * factor, "c": draw(40, 9)}
        save_file(tensors, folder / f"{name}.safetensors")
        import_dump(folder / f"{name}.safetensors", folder / name, Wanted(keep_tensors=False))
        dumps.append(folder / name)
    return dumps[0], dumps[1]
