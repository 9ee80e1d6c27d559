"""What all tests share: where the golden packs lie, a checkpoint of each kind, and one thread for everything."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from waypoint_parity.fixtures import tiny as tiny_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario

# Where the tests of whole models compute, as torch spells it: `WAYPOINT_TEST_DEVICE=cuda pytest tests/parity`.
DEVICE = torch.device(os.environ.get("WAYPOINT_TEST_DEVICE", "cpu"))
WORLD = Path(__file__).parents[1] / "fixtures" / "world" / "checkpoint"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads contend on small machines, and cost these small tensors more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


def pytest_sessionfinish() -> None:
    """End the processes that a failed test left: multiprocessing would wait for them at exit, without a limit."""
    for process in multiprocessing.active_children():
        process.kill()


def assert_same_draw(found: Tensor, recorded: Tensor) -> None:
    """That normal noise is the recorded one, also on another processor.

    torch draws the same bits with AVX2 and with AVX-512. Without them 2 values of 5 are rounded otherwise: by 2.5e-6 at
    most, among 11 million.
    """
    torch.testing.assert_close(found, recorded, rtol=0, atol=4e-6)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the golden packs."""
    return Path(__file__).parents[1] / "fixtures" / "golden"


@pytest.fixture(scope="session")
def base(golden: Path) -> Checkpoint:
    """The checkpoint of the golden packs."""
    return open_checkpoint(golden / "base")


@pytest.fixture(scope="session")
def world() -> Checkpoint:
    """The checkpoint of the small trained world."""
    return open_checkpoint(WORLD)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny checkpoint; copy it before changing anything in it."""
    return tiny_checkpoint.write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Checkpoint:
    """The tiny checkpoint, opened."""
    return open_checkpoint(tiny_folder)


@pytest.fixture(scope="session")
def tiny_scenario(tiny: Checkpoint) -> Scenario:
    """A session of two frames on the tiny checkpoint."""
    return make_scenario(tiny.geometry, name="short", units=2, seed=3, prompt_tokens=6, prompt_padding=2)


@pytest.fixture(scope="session")
def fp32_on_cpu() -> Numerics:
    """The numerics of most tests."""
    return Numerics(torch.float32, torch.device("cpu"))
