"""What holds of the adapter of modular pipelines without diffusers; tests/official runs a pipeline."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.reference.modular_diffusers.adapter import ModularDiffusersAdapter, pressed
from waypoint_parity.harness.run.paused_call import PausedCall
from waypoint_parity.reference.modular_diffusers.pipeline import PIP_LINE, TESTED_VERSION, TRUST, identity

REVISION = "93fe14eed217bb09c0244a9d91b2b3e88c3de181"


class TestTrust:
    def test_remote_code_is_not_run_without_leave(self, tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
        with pytest.raises(UserError, match="code that comes with the weights") as caught:
            ModularDiffusersAdapter(tiny, fp32_on_cpu)
        assert caught.value.expected == "diffusers+trust-remote-code"

    def test_the_code_on_the_hub_is_told_by_its_revision(self) -> None:
        assert identity(f"Overworld/Waypoint-1-Small@{REVISION}") == f"Overworld/Waypoint-1-Small@{REVISION}"

    def test_the_code_in_a_folder_is_told_by_its_digest(self, tmp_path: Path) -> None:
        (tmp_path / "modular_blocks.py").write_text("STEPS = 4")
        before = identity(str(tmp_path))
        assert identity(str(tmp_path)) == before
        (tmp_path / "modular_blocks.py").write_text("STEPS = 3")
        assert identity(str(tmp_path)) != before


def test_without_diffusers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="not installed") as caught:
        ModularDiffusersAdapter(tiny, replace(fp32_on_cpu, options=(TRUST,)))
    assert TESTED_VERSION in caught.value.expected
    assert caught.value.do == PIP_LINE
    assert f"diffusers=={TESTED_VERSION}" in PIP_LINE


class TestButtons:
    def test_those_that_are_down_are_named_by_their_ids(self) -> None:
        assert pressed(torch.tensor([0.0, 1.0, 0.0, 1.0])) == {1, 3}
        assert pressed(torch.zeros(4)) == set()

    def test_one_that_is_half_down_is_refused(self) -> None:
        with pytest.raises(UserError, match="by their ids"):
            pressed(torch.tensor([0.0, 0.5]))


class Log:
    """A call of two passes that writes down what it does, and its surroundings."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.paused = PausedCall(self.call, self.surroundings)

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        self.lines.append("in")
        yield
        self.lines.append("out")

    def call(self) -> None:
        for step in range(2):
            self.paused.pause(Pass("denoise", step))
            self.lines.append(f"ran {step}")


class TestPausedCall:
    def test_every_pass_is_announced_before_it_runs(self) -> None:
        log = Log()
        for at in log.paused.passes():
            log.lines.append(f"announced {at.step}")
        turns = ["in", "out", "announced 0", "in", "ran 0", "out", "announced 1", "in", "ran 1", "out"]
        assert log.lines == turns

    def test_what_it_raises_is_raised_to_the_caller(self) -> None:
        def call() -> None:
            paused.pause(Pass("cache"))
            raise ZeroDivisionError("in the call")

        log = Log()
        paused = PausedCall(call, log.surroundings)
        passes = paused.passes()
        assert next(passes) == Pass("cache")
        with pytest.raises(ZeroDivisionError, match="in the call"):
            next(passes)

    def test_left_in_the_middle_it_does_not_go_on(self) -> None:
        threads = threading.active_count()
        log = Log()
        passes = log.paused.passes()
        next(passes)
        del passes
        assert "ran 0" not in log.lines
        assert threading.active_count() == threads

    @pytest.mark.parametrize("inference", [True, False])
    def test_it_records_gradients_where_the_caller_does(self, inference: bool) -> None:
        found = []
        with torch.inference_mode(inference):
            paused = PausedCall(lambda: found.append(torch.is_inference_mode_enabled()), Log().surroundings)
            assert list(paused.passes()) == []
        assert found == [inference]
