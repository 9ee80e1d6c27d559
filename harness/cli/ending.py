"""How the program ends: when it is asked to, and where what it prints cannot be written."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from waypoint_parity.harness.cli.outcome import UNUSABLE
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import Interrupted, interruptible, output_failure, steady_streams

Given = ParamSpec("Given")


def as_a_program(command: Callable[Given, int]) -> Callable[Given, int]:
    """`command` with the signals and the standard streams of this process its own; it returns an exit code."""

    @functools.wraps(command)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> int:
        steady_streams()
        try:
            with interruptible():
                return _written(command(*args, **kwargs))
        except Interrupted as asked:
            print("interrupted", file=sys.stderr)
            return asked.exit_code
        except SystemExit as end:
            # Of a call that asks for help, or that is wrong.
            if code := _written(0):
                return code
            raise end

    return run


def _written(code: int) -> int:
    """`code`; where nothing could be printed, that is told, and no code says that all is well."""
    failure = output_failure()
    if failure is None:
        return code
    error = UserError(
        "standard output: cannot be written",
        found=failure.strerror or str(failure),
        expected="a place with enough room",
        do="free space, or write to another place",
    )
    print(f"error: {error}", file=sys.stderr)
    return code or UNUSABLE
