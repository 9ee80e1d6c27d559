"""Seconds of a sweep of 18 variants of 8 frames, in one process and in one for each core; and of its documents."""

import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from waypoint_parity.harness.processes import available_cores
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary
from waypoint_parity.reports.documents import write_documents

ROOT = Path(__file__).parents[2]
SWEPT = ("--checkpoint", "fixtures/golden/base", "--scenario", "fixtures/scenarios/walk.safetensors")


def swept(out: Path, jobs: int, threads: int) -> float:
    """Seconds of the command, from its start to its end."""
    room = ("--jobs", str(jobs), "--threads", str(threads))
    command = [sys.executable, "-m", "waypoint_parity", "parity", *SWEPT, *room, "--out", str(out)]
    started = perf_counter()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return perf_counter() - started


@pytest.mark.skipif(available_cores() < 2, reason="one core")
def test_a_sweep_of_18_variants(benchmark: Any, tmp_path: Path) -> None:
    jobs = available_cores()
    # Thread for thread; and one process that has all cores, as threads.
    alone, on_threads = (swept(tmp_path / f"alone-{threads}", 1, threads) for threads in (1, jobs))
    together = benchmark.pedantic(swept, args=(tmp_path / "together", jobs, 1), rounds=1)
    summary = read_summary(tmp_path / "together" / SUMMARY_NAME)
    assert len(summary.variants) == 18
    assert all(len(comparison.pictures) == 8 for comparison in summary.variants.values())
    started = perf_counter()
    write_documents(summary, tmp_path / "together")
    benchmark.extra_info.update(
        {
            "row": "sweep-18",
            "processes": jobs,
            "seconds": together,
            "one_process_seconds": alone,
            "one_process_on_all_cores_seconds": on_threads,
            "speedup": alone / together,
            "speedup_over_threads": on_threads / together,
            "report_seconds": perf_counter() - started,
            "report_bytes": (tmp_path / "together" / "report.html").stat().st_size,
        }
    )
