import os
import warnings
from collections.abc import Callable

import pytest
import torch
import torch._dynamo.config

from waypoint_parity.harness.run.process_settings import ProcessSettings, preserved_settings

CHANGES: dict[str, Callable[[], object]] = {
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "precision of one backend": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "compiler": lambda: setattr(torch._dynamo.config, "recompile_limit", 64),
    "environment, a new variable": lambda: os.environ.update(WAYPOINT_TEST_NEW="1"),
    "environment, another value": lambda: os.environ.update(WAYPOINT_TEST_SET="2"),
    "environment, a variable less": lambda: os.environ.pop("WAYPOINT_TEST_SET"),
    "warnings": lambda: warnings.simplefilter("ignore"),
    "random state": lambda: torch.rand(3),
}


@pytest.fixture(autouse=True)
def _a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYPOINT_TEST_SET", "1")


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_the_block_changes_is_put_back(change: Callable[[], object]) -> None:
    before = ProcessSettings.read()
    with preserved_settings():
        change()
        assert ProcessSettings.read() != before
    assert ProcessSettings.read() == before


def test_it_is_put_back_where_the_block_raises() -> None:
    @preserved_settings()
    def fail() -> None:
        torch.set_default_dtype(torch.float64)
        raise ZeroDivisionError

    before = ProcessSettings.read()
    with pytest.raises(ZeroDivisionError):
        fail()
    assert ProcessSettings.read() == before


def test_a_precision_left_to_the_backend_stays_left_to_it() -> None:
    """Setting the precision of all backends by its one name would write "ieee" over "none"."""
    assert ProcessSettings.read().precisions == ("none", "none")
    with preserved_settings():
        torch.set_float32_matmul_precision("medium")
    assert ProcessSettings.read().precisions == ("none", "none")
