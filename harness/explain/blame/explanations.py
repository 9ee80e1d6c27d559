"""Explanations: kinds of fault that look like what was measured, and what to check in the code.

They are text beside a measurement and never change it: a kind that is not in the tables is as likely as before.
"""

from waypoint_parity.harness.explain.blame.result import Explanation, Signature
from waypoint_parity.harness.run.family import Family, FaultKind

MOST = 4
_UNKNOWN = ["unknown"]


def explain(part: str, signature: Signature, family: Family) -> list[Explanation]:
    """The kinds of fault that a part's errors look like, those with the most conditions fulfilled first, at most 4."""
    alike = [kind for kind in likeliest(part, signature, family) if rank_of(kind, part, signature) is not None]
    return [Explanation(kind=kind.kind, check=kind.check) for kind in alike[:MOST]]


def likeliest(part: str, signature: Signature, family: Family) -> list[FaultKind]:
    """The kinds of fault of a part, the likeliest first; those that the signature contradicts last."""

    def rank(kind: FaultKind) -> int:
        found = rank_of(kind, part, signature)
        return -1 if found is None else found

    return sorted((kind for kind in kinds_of(family) if part in kind.parts), key=rank, reverse=True)


def kinds_of(family: Family) -> list[FaultKind]:
    """The kinds of fault of a family, and the one that any part of any family can have."""
    incomparable = FaultKind(
        tuple(part.name for part in family.parts),
        "values that cannot be compared: NaN, infinity, another shape, or a pass that only one side runs",
        "the note of the first observation; overflow in half precision, the layout of the site, the list of passes",
        onset=("no distance",),
    )
    return [*family.kinds, incomparable]


def rank_of(kind: FaultKind, part: str, signature: Signature) -> int | None:
    """How many conditions of a kind a signature of `part` fulfils; None where it contradicts one."""
    if part not in kind.parts:
        return None
    conditions: list[tuple[tuple[str, ...], list[str]]] = [
        (kind.onset, signature.onset),
        (kind.extent, signature.onset),
        (kind.layers, [signature.layers]),
        (kind.controls, signature.controls or _UNKNOWN),
        ((kind.norm,) if kind.norm else (), [signature.norm]),
        ((kind.course,) if kind.course else (), [signature.course]),
    ]
    # Any one of the words that a condition gives, where the signature knows what it asks for.
    told = [set(words) & set(found) for words, found in conditions if words and found != _UNKNOWN]
    return len(told) if all(told) else None
