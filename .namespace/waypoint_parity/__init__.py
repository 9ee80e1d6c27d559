"""Compare two implementations of a model layer by layer: `import waypoint_parity as wp`.

| name | what it does |
| --- | --- |
| `module_parity` | two modules of torch, without anything else |
| `assert_parity` | tensors, arrays or dumps; the message is the first divergence |
| `compare` | two implementations with adapters, on a scenario |
| `blame` | what causes their divergence |
| `record`, `load_dump`, `diff` | dumps: written, opened, compared |

Importing it costs nothing: each name is loaded when it is first used. Tests use the fixture `parity`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from waypoint_parity.harness.api.dumps import diff, load_dump
    from waypoint_parity.harness.api.modules import Call, module_parity
    from waypoint_parity.harness.api.runs import blame, compare, record
    from waypoint_parity.harness.api.values import ParityError, assert_parity
    from waypoint_parity.harness.errors import EngineError, UserError
    from waypoint_parity.harness.explain.blame.result import Blame
    from waypoint_parity.harness.judge.comparison import Comparison, SiteResult, Verdict
    from waypoint_parity.harness.judge.diff import Dump

    __version__: str

__all__ = [
    "Blame",
    "Call",
    "Comparison",
    "Dump",
    "EngineError",
    "ParityError",
    "SiteResult",
    "UserError",
    "Verdict",
    "__version__",
    "assert_parity",
    "blame",
    "compare",
    "diff",
    "load_dump",
    "module_parity",
    "record",
]

_HARNESS = "waypoint_parity.harness"
_HOMES = {
    **dict.fromkeys(("diff", "load_dump"), f"{_HARNESS}.api.dumps"),
    **dict.fromkeys(("Call", "module_parity"), f"{_HARNESS}.api.modules"),
    **dict.fromkeys(("blame", "compare", "record"), f"{_HARNESS}.api.runs"),
    **dict.fromkeys(("ParityError", "assert_parity"), f"{_HARNESS}.api.values"),
    **dict.fromkeys(("EngineError", "UserError"), f"{_HARNESS}.errors"),
    "Blame": f"{_HARNESS}.explain.blame.result",
    **dict.fromkeys(("Comparison", "SiteResult", "Verdict"), f"{_HARNESS}.judge.comparison"),
    "Dump": f"{_HARNESS}.judge.diff",
}


def __getattr__(name: str) -> object:
    """A public name, loaded when it is first used."""
    if name == "__version__":
        from importlib.metadata import version

        return version("waypoint-parity")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
