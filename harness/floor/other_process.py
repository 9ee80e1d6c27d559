"""The same run in a process of its own: what a fresh start, or another instruction set, does to the numbers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from harness.adapter import Adapter, Numerics
from harness.checkpoint import Checkpoint
from harness.compare_records import record_error
from harness.distance import Error
from harness.dump import DumpWriter, describe_run
from harness.errors import UserError
from harness.keys import Key, is_input
from harness.recorder import Recorder
from harness.records import read_records
from harness.scenario import Scenario, write_scenario
from harness.session import run


def other_processes(numerics: Numerics) -> dict[str, dict[str, str]]:
    """The environment of each kind of process whose runs must not differ in more than noise, by its name."""
    processes: dict[str, dict[str, str]] = {"second process": {}}
    if numerics.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        processes["other instruction set"] = {"ATEN_CPU_CAPABILITY": "default"}
    return processes


def against_another_process(
    implementation: str,
    adapter: Adapter,
    checkpoint: Checkpoint,
    numerics: Numerics,
    scenario: Scenario,
    environment: Mapping[str, str],
) -> dict[Key, Error]:
    """The error of every observation of `implementation` in a process with this environment, from `adapter`'s here.

    By records: distances are estimates. `checkpoint` lies in a folder.
    """
    with TemporaryDirectory() as folder:
        here, there, inputs = (Path(folder) / name for name in ("here", "there", "scenario.safetensors"))
        manifest = describe_run(implementation, adapter, numerics, checkpoint, scenario)
        with DumpWriter(here, manifest) as writer, Recorder(adapter.sites(), writer) as recorder:
            run(adapter, scenario, checkpoint.transformer, recorder)
        write_scenario(scenario, inputs)
        _dump(implementation, checkpoint, numerics, inputs, there, environment)
        expected = {record.key: record for record in read_records(here) if not is_input(record.site)}
        return {
            record.key: record_error(record, expected[record.key])
            for record in read_records(there)
            if not is_input(record.site)
        }


def _dump(
    implementation: str,
    checkpoint: Checkpoint,
    numerics: Numerics,
    scenario: Path,
    out: Path,
    environment: Mapping[str, str],
) -> None:
    """What `waypoint-parity dump` writes in a process of its own. Raises UserError where it fails."""
    options = {
        "--checkpoint": checkpoint.folder,
        "--scenario": scenario,
        "--out": out,
        "--dtype": numerics.dtype_name,
        "--device": numerics.device,
        "--threads": torch.get_num_threads(),
    }
    flags = [*(["--compiled"] if numerics.compiled else []), *(f"--{option}" for option in numerics.options)]
    words = [str(word) for option in options.items() for word in option]
    finished = subprocess.run(
        [sys.executable, "-m", "harness.cli", "dump", implementation, *words, *flags],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise UserError(
            f"{implementation}: cannot be run in another process",
            found=finished.stderr.strip() or f"exit status {finished.returncode}",
            expected="a dump of the same session",
            do="see that `waypoint-parity dump` runs it",
        )
