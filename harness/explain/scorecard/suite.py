"""Finding a suite by its name."""

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.scorecard.fault import Suite
from waypoint_parity.harness.run.registry import module_at


def find_suite(name: str) -> Suite:
    """The suite called `package.module:NAME` or `path/to/file.py:NAME`. Raises UserError where there is none."""
    location, colon, attribute = name.rpartition(":")
    found = getattr(module_at(location), attribute, None) if colon else None
    if not isinstance(found, Suite):
        raise UserError(
            f"{name}: is no suite of faults",
            found=f"{attribute} is {type(found).__name__}" if colon else "a name without a module",
            expected="package.module:NAME or path/to/file.py:NAME of a harness.explain.scorecard.fault.Suite",
            do="correct --suite",
        )
    return found
