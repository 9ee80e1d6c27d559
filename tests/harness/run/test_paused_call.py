"""A call that is taken pass by pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.paused_call import PausedCall


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

    def test_what_is_done_outside_is_done_in_the_callers_thread(self) -> None:
        def call() -> None:
            found.append(threading.current_thread())
            paused.pause(Pass("denoise"))
            found.append(paused.outside(threading.current_thread))

        found: list[threading.Thread] = []
        log = Log()
        paused = PausedCall(call, log.surroundings)
        assert list(paused.passes()) == [Pass("denoise")]
        assert found[0] is not threading.current_thread()
        assert found[1] is threading.current_thread()
        # Settings of the call are not those of the caller.
        assert log.lines == ["in", "out"] * 3

    def test_what_is_raised_outside_is_raised_in_the_call(self) -> None:
        def call() -> None:
            with pytest.raises(ZeroDivisionError):
                paused.outside(lambda: 1 // 0)
            paused.outside(lambda: [][0])

        paused = PausedCall(call, Log().surroundings)
        with pytest.raises(IndexError):
            list(paused.passes())

    def test_the_callers_modes_are_on_in_the_call_while_they_are_on_in_the_caller(self) -> None:
        def call() -> None:
            torch.ones(1) + 1
            paused.pause(Pass("denoise", 0))
            with Calls() as own:
                torch.ones(1) + 1
                paused.pause(Pass("denoise", 1))
                torch.ones(1) + 1
            assert own.seen == 4

        calls, operations = Calls(), Operations()
        paused = PausedCall(call, Log().surroundings)
        passes = paused.passes()
        next(passes)
        with calls, operations:
            next(passes)
        assert (calls.seen, operations.seen) == (2, 2)
        with pytest.raises(StopIteration):
            next(passes)
        assert (calls.seen, operations.seen) == (2, 2)


class Calls(TorchFunctionMode):
    """Counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))
