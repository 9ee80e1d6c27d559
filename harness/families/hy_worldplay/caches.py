"""The memory, as the harness asks for caches: told by the latents that it holds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from waypoint_parity.harness.run.family import MarksTold, NoCaches, SlotFault
from waypoint_parity.harness.run.keys import Key

if TYPE_CHECKING:
    from torch import Tensor

SITE, HELD, ABSENT = "memory.latents", "held", "-"


class _Sign(NamedTuple):
    key: Key
    marks: tuple[str, ...]


class MemoryCaches(NoCaches):
    """See harness.run.family.Caches. A slot is a latent of the session."""

    legend = f"{HELD}: the memory holds the latent, {ABSENT}: it does not"

    def describe(self, geometry: Any) -> list[dict[str, Any]]:
        """One memory, which all layers share."""
        return [{"name": "memory", "site": SITE}]

    def marks(self, site: str, tensor: "Tensor", described: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """A word for every latent of the session."""
        if site != SITE or tensor.dim() != 1:
            return None
        return [HELD if held else ABSENT for held in tensor.tolist()]

    def wrong_marks(
        self, told: MarksTold, tensor: "Tensor | None", described: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str] | None:
        """Words for another number of latents, or that contradict what the site shows."""
        shown = None if tensor is None else self.marks(told.site, tensor, described)
        if told.site != SITE or len(told.marks) != told.shape[0]:
            return f"{len(told.marks)} slots at {told.site}", f"one for each latent at {SITE}"
        return None if shown is None or shown == list(told.marks) else (", ".join(told.marks), ", ".join(shown))

    def tells(self, site: str) -> bool:
        """Whether it says what the memory holds."""
        return site == SITE

    def sign(self, key: Key, dtype: str | None, digest: str | None, marks: list[str] | None) -> _Sign:
        """What the memory holds in a pass."""
        return _Sign(key, tuple(marks or ()))

    def lines(self, folder: Path, layer: int | None) -> list[str]:
        """Nothing besides the records."""
        return super().lines(folder, layer)

    def comparison(self, described: Sequence[Mapping[str, Any]], *, teacher_forced: bool) -> "MemoryComparison":
        """The memories of two sides, latent by latent."""
        return MemoryComparison()

    def tables(self, folder: Path, faults: Collection[SlotFault] = ()) -> None:
        """No table."""
        return


class MemoryComparison:
    """Keeps, of every chunk, the first latent that only one side's memory holds."""

    faults: list[SlotFault]
    _NONE: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.faults = []
        self._expected: dict[Key, tuple[str, ...]] = {}

    def reference(self, order: int, sign: _Sign) -> None:
        """The reference's memory in a pass."""
        self._expected[sign.key] = sign.marks

    def candidate(self, sign: _Sign) -> None:
        """The candidate's in the same pass."""
        key, expected = sign.key, self._expected.get(sign.key, self._NONE)
        differing = [slot for slot, (a, b) in enumerate(zip(sign.marks, expected, strict=False)) if a != b]
        if differing and not self.faults:
            lists = [[slot for slot, mark in enumerate(marks) if mark == HELD] for marks in (sign.marks, expected)]
            message = f"chunk {key.unit}: the memory holds latents {lists[0]}, expected {lists[1]}"
            self.faults.append(
                SlotFault(
                    cache="memory",
                    unit=key.unit,
                    phase=key.phase,
                    step=key.step,
                    slot=differing[0],
                    message=message,
                )
            )
