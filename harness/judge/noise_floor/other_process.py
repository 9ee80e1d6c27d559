"""The same run in a process of its own: what a fresh start, or another instruction set, does to the numbers."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.record_error import record_error
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import read_records
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.keys import Key, is_input
from waypoint_parity.harness.run.scenario import Scenario, write_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording


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
        with DumpWriter(here, manifest) as writer, recording(adapter.sites(), writer) as taps:
            run(adapter, scenario, checkpoint, taps)
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
        [sys.executable, "-m", "waypoint_parity", "dump", implementation, *words, *flags],
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
