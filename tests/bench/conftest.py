"""Collects what the benchmarks measured into reports/out/bench.json."""

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

OUT = Path(__file__).parents[2] / "reports" / "out" / "bench.json"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """In place of the tests' fixture of this name: speed is measured with the threads that a run would have."""


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A benchmark may take an hour."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Write the figures of every row, from whichever benchmarks. Called when pytest-benchmark writes its own JSON.

    Figures that were measured earlier on the same machine, and not again now, are kept.
    """
    machine = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
    }
    before = json.loads(OUT.read_text()) if OUT.is_file() else {}
    rows: dict[str, dict[str, Any]] = before["rows"] if before.get("machine") == machine else {}
    for measured in output_json["benchmarks"]:
        figures = dict(measured["extra_info"])
        rows.setdefault(figures.pop("row"), {}).update(figures)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
