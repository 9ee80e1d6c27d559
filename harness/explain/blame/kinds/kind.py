"""A kind of fault: what it is, what to check, and how it shows."""

from dataclasses import dataclass

from waypoint_parity.harness.explain.blame.result import Signature
from waypoint_parity.harness.explain.blame.signature import Control, Course, Extent, Layers, Norm, Onset

_UNKNOWN = ["unknown"]


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault in one of `parts`, and what to check in the code. Nothing here measures; it is told by words.

    Each condition that is given must hold, by any one of its words. What is not known contradicts none: an unknown norm
    or course, and controls where no experiment showed any.
    """

    parts: tuple[str, ...]
    kind: str
    check: str
    onset: tuple[Onset, ...] = ()
    extent: tuple[Extent, ...] = ()
    layers: tuple[Layers, ...] = ()
    norm: Norm | None = None
    course: Course | None = None
    controls: tuple[Control, ...] = ()

    def rank(self, part: str, signature: Signature) -> int | None:
        """How many conditions a signature of `part` fulfils; None where it contradicts one."""
        if part not in self.parts:
            return None
        conditions: list[tuple[tuple[str, ...], list[str]]] = [
            (self.onset, signature.onset),
            (self.extent, signature.onset),
            (self.layers, [signature.layers]),
            (self.controls, signature.controls or _UNKNOWN),
            ((self.norm,) if self.norm else (), [signature.norm]),
            ((self.course,) if self.course else (), [signature.course]),
        ]
        # Any one of the words that a condition gives, where the signature knows what it asks for.
        told = [set(words) & set(found) for words, found in conditions if words and found != _UNKNOWN]
        return len(told) if all(told) else None
