"""Seconds and memory of a diff of a million records, beside what one would write in an afternoon.

A quick run has fewer records: `pytest tests/bench/test_diff.py --benchmark-only -k 100k`.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.bench.synthetic_dump import write_synthetic_dump
from waypoint_parity.harness.record.records import RECORDS_NAME

# A process of its own, as the command line is one: it imports, notes its memory, and compares. Each of the processes
# that it starts is asked for its peak too, by the kernel.
DIFF = """
import resource, sys
from pathlib import Path
from time import perf_counter
from waypoint_parity.harness.judge.diff import diff
from tests.bench.memory import peak_growth

def main():
    folder, found = Path(sys.argv[1]), []
    started = perf_counter()
    growth = peak_growth(lambda: found.append(diff(folder / "reference", folder / "candidate")))
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(perf_counter() - started, growth, workers, found[0].verdict, found[0].compared)

if __name__ == "__main__":
    main()
"""
# What such a process takes that imports the same and does nothing.
IDLE = """
import multiprocessing, resource
import waypoint_parity.harness.judge.diff

def main():
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)

if __name__ == "__main__":
    main()
"""


def printed(folder: Path, program: str) -> list[str]:
    """What a program prints about the dumps in `folder`, word by word."""
    file = folder / "program.py"
    file.write_text(program)
    root = Path(__file__).parents[2]
    command = [sys.executable, str(file), str(folder)]
    output = subprocess.run(
        command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True
    )
    return output.stdout.split()


def by_json(reference: Path, candidate: Path) -> int:
    """The plain way: json, a dict of one side, a numpy distance of each pair. Returns how many pairs there were."""
    with reference.open() as file:
        expected = {_key(record): record for record in map(json.loads, file)}
    pairs = 0
    with candidate.open() as file:
        for record in map(json.loads, file):
            left, right = (
                np.frombuffer(base64.b64decode(r["sketch"]), "<f4") for r in (record, expected[_key(record)])
            )
            np.linalg.norm(left - right) / np.linalg.norm(right)
            pairs += 1
    return pairs


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("unit", "phase", "step", "site", "call"))


def by_pandas(reference: Path, candidate: Path) -> int:
    """The way of a notebook: two data frames, merged by key."""
    keys = ["unit", "phase", "step", "site", "call"]
    sides = [pd.read_json(path, lines=True)[[*keys, "sketch"]] for path in (reference, candidate)]
    merged = sides[0].merge(sides[1], on=keys)
    left, right = (
        np.frombuffer(b"".join(map(base64.b64decode, merged[name])), "<f4").reshape(len(merged), -1)
        for name in ("sketch_x", "sketch_y")
    )
    np.linalg.norm(left - right, axis=1) / np.linalg.norm(left, axis=1)
    return len(merged)


@pytest.mark.benchmark(group="diff")
@pytest.mark.parametrize("records", [100_000, 1_000_000], ids=["100k", "1m"])
def test_diff(records: int, benchmark: Any, tmp_path: Path) -> None:
    sides = [
        write_synthetic_dump(tmp_path / "reference", records),
        write_synthetic_dump(tmp_path / "candidate", records, 1e-6),
    ]
    runs: list[list[str]] = []
    benchmark.pedantic(lambda: runs.append(printed(tmp_path, DIFF)), rounds=2)
    for run in runs:
        assert run[3:] == ["WITHIN_NOISE", str(records)]
    # The baselines on a tenth, times ten: they take a minute and gigabytes otherwise.
    part = records // 10
    for side in sides:
        lines = (side / RECORDS_NAME).read_bytes().split(b"\n", part)[:part]
        (side / "part.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    baselines = {}
    for name, plain in (("json", by_json), ("pandas", by_pandas)):
        started = perf_counter()
        assert plain(*(side / "part.jsonl" for side in sides)) == part
        baselines[f"{name}_seconds_from_a_tenth"] = 10 * (perf_counter() - started)
    best = min(runs, key=lambda run: float(run[0]))
    benchmark.extra_info |= {
        "row": f"diff-{'1m' if records == 1_000_000 else '100k'}",
        "records": records,
        "seconds": float(best[0]),
        "peak_growth_bytes": max(int(run[1]) for run in runs),
        "worker_peak_growth_bytes": max(0, max(int(run[2]) for run in runs) - int(printed(tmp_path, IDLE)[0])),
        **baselines,
    }
