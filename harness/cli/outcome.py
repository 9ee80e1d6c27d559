"""How a command ends: its exit code, and the result that it writes as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from waypoint_parity.harness.judge.comparison import Verdict

# Parity holds; it does not; the runs cannot be compared, or the call is wrong; a fault of the harness.
HOLDS, FAILS, UNUSABLE, OUR_FAULT = 0, 1, 2, 70


def exit_code(verdict: "Verdict") -> int:
    """The exit code of a comparison with this verdict."""
    from waypoint_parity.harness.judge.comparison import Verdict

    if verdict is Verdict.INCOMPARABLE:
        return UNUSABLE
    return HOLDS if verdict.passes else FAILS


# In place of a file.
STANDARD_OUTPUT = Path("-")


def tell(lines: Sequence[str], result: object, path: Path | None) -> None:
    """Print lines, and write the result as JSON where a path is given; to standard output, it stands there alone."""
    if path == STANDARD_OUTPUT:
        from waypoint_parity.harness.record.records import to_json

        print(to_json(result).decode(), end="")
        return
    print("\n".join(lines))
    if path is not None:
        write_json(result, path)


def write_json(result: object, path: Path) -> None:
    """Write a result as indented JSON. Raises UserError where nothing can be written."""
    from waypoint_parity.harness.files import replacing
    from waypoint_parity.harness.record.records import to_json

    with replacing(path) as partial:
        partial.write_bytes(to_json(result))
