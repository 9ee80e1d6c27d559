"""Sweeps that are killed, that share a folder, or whose worker is killed: they end as an undisturbed one does."""

import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from tests.cli.conftest import start
from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.sweep.executors import dask
from waypoint_parity.harness.sweep.parity import ParityRun, run_parity
from waypoint_parity.harness.sweep.store import CELLS
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary

distributed = pytest.importorskip("distributed")
MOST_KILLS = 10
SWEPT = ("--schedule", "single-step", "--prompt-mask", "none", "zeroed", "--no-blame")
# What is not the same from run to run, and what another kind of process has loaded besides.
TIMES = ("seconds", "seal", "reused", "loaded")


def begin(folder: Path, tiny_folder: Path, scenario: Path, *seeds: int, jobs: int = 1) -> BaseProcess:
    """A sweep in a process of its own, which leaves its cells in `folder`/run."""
    folder.mkdir(exist_ok=True)
    inputs = ("--checkpoint", tiny_folder, "--scenario", scenario, "--out", folder / "run")
    # What is judged does not matter here: exact values would only take longer.
    return start(folder, "parity", *inputs, *SWEPT, "--no-exact", "--jobs", jobs, "--seed", *seeds)


def finish(sweep: BaseProcess) -> None:
    sweep.join(timeout=240)
    assert sweep.exitcode == 0


def results(out: Path) -> dict[str, object]:
    """What a sweep left: of every cell all its files, of the summary everything but times."""
    found: dict[str, object] = {}
    for path in sorted((out / CELLS).rglob("*")):
        if path.is_file():
            found[path.relative_to(out).as_posix()] = content_of(path)
    return found | {SUMMARY_NAME: timeless((out / SUMMARY_NAME).read_bytes())}


def content_of(path: Path) -> object:
    if path.name in ("cell.json", "manifest.json"):
        return timeless(path.read_bytes())
    # The metadata of a safetensors file come in any order.
    is_scenario = path.name == "scenario.safetensors"
    return read_scenario(path).digest if is_scenario else hashlib.sha256(path.read_bytes()).hexdigest()


def timeless(document: bytes) -> object:
    def stripped(value: object) -> object:
        if isinstance(value, dict):
            return {key: stripped(item) for key, item in value.items() if key not in TIMES}
        return [stripped(item) for item in value] if isinstance(value, list) else value

    return stripped(msgspec.json.decode(document))


class Undisturbed(NamedTuple):
    """A sweep of eight cells that nothing disturbed: its folder, and the seconds that it took."""

    out: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder, started = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    finish(begin(folder, tiny_folder, scenario_file, 1, 2, 3, 4))
    return Undisturbed(folder / "run", time.monotonic() - started)


def cells(out: Path) -> list[Path]:
    """The cells that have been made."""
    return [path.parent for path in (out / CELLS).glob("*/cell.json") if not path.parent.name.startswith(".")]


def kill(sweep: BaseProcess, out: Path, more: int, moment: float) -> None:
    """Kill a sweep `moment` seconds after it has made so many cells `more` and begun to make another."""
    enough = len(cells(out)) + more
    while sweep.is_alive() and not (any((out / CELLS).glob(f".making-*-{sweep.pid}-*")) and len(cells(out)) >= enough):
        time.sleep(0.01)
    sweep.join(timeout=moment)
    end(sweep)


def end(sweep: BaseProcess) -> None:
    sweep.kill()
    sweep.join(timeout=60)
    assert not sweep.is_alive()


def test_a_sweep_killed_again_and_again_ends_as_an_undisturbed_one(
    undisturbed: Undisturbed, tiny_folder: Path, scenario_file: Path, tmp_path: Path
) -> None:
    moments, made = random.Random(6), []
    # Until there is nothing left to make: a sweep that only writes its documents again ends before it is killed.
    while len(made) < MOST_KILLS and (not made or made[-1] < 8):
        sweep = begin(tmp_path, tiny_folder, scenario_file, 1, 2, 3, 4)
        moment = moments.uniform(0, 1 / 8) * undisturbed.seconds
        kill(sweep, tmp_path / "run", more=moments.randint(0, 1), moment=moment)
        made.append(len(cells(tmp_path / "run")))
    print(f"cells made when killed: {made}")
    assert made[0] < 8
    assert made[-1] > made[0]
    finish(begin(tmp_path, tiny_folder, scenario_file, 1, 2, 3, 4))
    assert results(tmp_path / "run") == results(undisturbed.out)


@pytest.mark.slow
def test_a_sweep_whose_workers_were_left_alone_ends_as_an_undisturbed_one(
    undisturbed: Undisturbed, tiny_folder: Path, scenario_file: Path, tmp_path: Path
) -> None:
    sweep = begin(tmp_path, tiny_folder, scenario_file, 1, 2, 3, 4, jobs=2)
    while sweep.is_alive() and not cells(tmp_path / "run"):
        time.sleep(0.01)
    end(sweep)
    finish(begin(tmp_path, tiny_folder, scenario_file, 1, 2, 3, 4, jobs=2))
    assert results(tmp_path / "run") == results(undisturbed.out)


@pytest.mark.slow
def test_two_sweeps_in_one_folder_leave_each_other_whole(
    undisturbed: Undisturbed, tiny_folder: Path, scenario_file: Path, tmp_path: Path
) -> None:
    # All cells of one are the other's too.
    for sweep in [begin(tmp_path, tiny_folder, scenario_file, *seeds) for seeds in ((1, 2), (1, 2, 3, 4))]:
        finish(sweep)
    found, expected = results(tmp_path / "run"), results(undisturbed.out)
    assert len(read_summary(tmp_path / "run" / SUMMARY_NAME).cells) in (4, 8)
    assert {**found, SUMMARY_NAME: None} == {**expected, SUMMARY_NAME: None}


@pytest.fixture
def cluster() -> Iterator["distributed.LocalCluster"]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
    ) as cluster:
        yield cluster


def test_a_cluster_that_loses_a_worker_in_the_middle_ends_as_one_process(
    cluster: "distributed.LocalCluster", tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(
        tiny, short, fp32_on_cpu, schedule=("single-step",), seed=tuple(map(str, range(4))), mask=("zeroed",)
    )
    expected = run_parity(tiny_run(tiny, tmp_path / "one"), cells)
    killed: list[int] = []

    def kill_a_worker(name: str) -> None:
        if not killed:
            killed.append(next(iter(cluster.workers.values())).process.process.pid)
            os.kill(killed[0], signal.SIGKILL)

    rules = tiny_run(tiny, tmp_path).rules
    run = ParityRun(tiny, rules, tmp_path / "two", dask(cluster.scheduler_address), at_once=len(cells))
    found = run_parity(run, cells, kill_a_worker)
    assert killed
    assert found.failures == []
    assert found.variants == expected.variants
    assert results(tmp_path / "two") == results(tmp_path / "one")
