"""Explanations: kinds of fault that look like what was measured, and what to check in the code.

They are text beside a measurement and never change it: a kind that is not in the tables is as likely as before.
"""

from waypoint_parity.harness.explain.blame.kinds.attention import ATTENTION
from waypoint_parity.harness.explain.blame.kinds.conditioning import CONDITIONING
from waypoint_parity.harness.explain.blame.kinds.inputs import INPUTS
from waypoint_parity.harness.explain.blame.kinds.kind import FaultKind
from waypoint_parity.harness.explain.blame.kinds.picture import PICTURE
from waypoint_parity.harness.explain.blame.parts import PARTS
from waypoint_parity.harness.explain.blame.result import Explanation, Signature

_INCOMPARABLE = FaultKind(
    tuple(part.name for part in PARTS),
    "values that cannot be compared: NaN, infinity, another shape, or a pass that only one side runs",
    "the note of the first observation; overflow in half precision, the layout of the site, the list of passes",
    onset=("no distance",),
)
# In the order of execution. Of two kinds that fit equally well the first one is listed first.
KINDS: tuple[FaultKind, ...] = (*INPUTS, *CONDITIONING, *ATTENTION, *PICTURE, _INCOMPARABLE)
MOST = 4


def explain(part: str, signature: Signature) -> list[Explanation]:
    """The kinds of fault that a part's errors look like, those with the most conditions fulfilled first, at most 4."""
    ranked = [(rank, kind) for kind in KINDS if (rank := kind.rank(part, signature)) is not None]
    ranked.sort(key=lambda found: found[0], reverse=True)
    return [Explanation(kind=kind.kind, check=kind.check) for _, kind in ranked[:MOST]]
