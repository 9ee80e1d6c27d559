"""What all tests share: the golden packs, a checkpoint of each kind, a browser, and one thread for everything."""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from waypoint_parity.fixtures import tiny as tiny_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Where the tests of whole models compute, as torch spells it: `WAYPOINT_TEST_DEVICE=cuda pytest tests/parity`.
DEVICE = torch.device(os.environ.get("WAYPOINT_TEST_DEVICE", "cpu"))
WORLD = Path(__file__).parents[1] / "fixtures" / "world" / "checkpoint"
CHROMIUM = Path("/usr/bin/chromium")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads contend on small machines, and cost these small tensors more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that are `sampled`, mark all but the first instances as slow."""
    seen: Counter[str] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("sampled")) is not None:
            test = item.nodeid.partition("[")[0]
            seen[test] += 1
            if seen[test] > mark.args[0]:
                item.add_marker("slow")


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


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=QUIET)
        yield browser
        browser.close()


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
