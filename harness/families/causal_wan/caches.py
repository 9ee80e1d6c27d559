"""The rolling window of keys and values, told slot by slot: which latent each slot holds, and as of which pass.

A slot is a latent's place in the window. Its content is known by its keys: the same bytes as the keys that some pass
has rotated (`k_rope`). No torch.
"""

from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.config import CausalWanGeometry
from waypoint_parity.harness.families.causal_wan.sites import CLEAN
from waypoint_parity.harness.record.records import read_manifest, records_mentioning
from waypoint_parity.harness.run.family import CacheTable, MarksTold, SlotFault
from waypoint_parity.harness.run.keys import At, Key, block_of

if TYPE_CHECKING:
    from torch import Tensor

KEYS, WINDOW, CACHE = ".self_attn.k_rope", ".self_attn.window", ".kv"
EMPTY, NOTHING, UNKNOWN = "empty", "nothing", "unknown content"
MOST_FAULTS = 20


class WindowSign(NamedTuple):
    """What one observation tells: a word for every slot, or for every latent whose keys were rotated."""

    key: Key
    marks: list[str]


class WindowCaches:
    """See harness.run.family.Caches."""

    legend = "*n: written since the row above; n@s: latent n as of denoise step s; .: nothing; ?: unknown content"

    def describe(self, geometry: CausalWanGeometry) -> list[dict[str, Any]]:
        """The window of every layer."""
        window = {"slots": geometry.slots, "sink": geometry.sink_size}
        return [{"name": f"kv_cache.layers.{n}", **window} for n in range(geometry.transformer.num_layers)]

    def marks(self, site: str, tensor: "Tensor", described: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """The digests of the keys of every latent of a window [2,1,slots,T,H,D], or of keys [1,N,T,H,D]."""
        from waypoint_parity.harness.families.causal_wan.slots import digests

        return digests(tensor, window=not site.endswith(KEYS)) if self.tells(site) else None

    def wrong_marks(
        self, told: MarksTold, tensor: "Tensor | None", described: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str] | None:
        """What of a window contradicts the words that are told of it."""
        if not self.tells(told.site):
            return f"{len(told.marks)} slots", "none: the site shows no window"
        axis = 1 if told.site.endswith(KEYS) else 2
        if len(told.shape) > axis and len(told.marks) != told.shape[axis]:
            return f"{len(told.marks)} words", f"{told.shape[axis]}: one for each latent"
        right = None if tensor is None else self.marks(told.site, tensor, described)
        # Any word will do that is the same exactly where the keys are; but empty slots are called so.
        pairs = [] if right is None else list(zip(told.marks, right, strict=False))
        first: dict[str, str] = {}
        back: dict[str, str] = {}
        for slot, (mark, own) in enumerate(pairs):
            alike = first.setdefault(mark, own) == own and back.setdefault(own, mark) == mark
            if not alike or (EMPTY in (mark, own) and mark != own):
                return f"{mark} of slot {slot}", own
        return None

    def tells(self, site: str) -> bool:
        """Whether a site shows a window, or keys that a window may hold."""
        return site.endswith((KEYS, WINDOW)) or _is_cache(site)

    def sign(self, key: Key, dtype: str | None, digest: str | None, marks: list[str] | None) -> WindowSign:
        """What an observation tells of the windows: nothing, where it has no words for the slots."""
        return WindowSign(key, marks or [])

    def lines(self, folder: Path, layer: int | None) -> list[str]:
        """Which latent every slot of a window holds, pass after pass."""
        lines = []
        for table in _tables(folder, layer):
            rows = [table.columns, *table.rows]
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            padded = ("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
            lines += [table.title, *(f"  {line}".rstrip() for line in padded), ""]
        return [*lines, self.legend]

    def comparison(self, described: Sequence[Mapping[str, Any]], *, teacher_forced: bool) -> "WindowComparison":
        """The windows of two sides, slot by slot."""
        return WindowComparison(teacher_forced=teacher_forced)

    def tables(self, folder: Path, faults: Collection[SlotFault] = ()) -> list[CacheTable]:
        """The windows of a dump, those with equal maps together."""
        return list(_tables(folder, None, faults))


class _Held(NamedTuple):
    """What the slots of a layer held in one observation of them."""

    key: Key
    held: list[str]


class WindowSide:
    """The windows of one implementation, followed through its observations in the order of execution."""

    def __init__(self, teacher: "WindowSide | None" = None) -> None:
        """`teacher`: the side whose cache this one is given after every chunk, if any."""
        self._teacher = teacher
        # By layer: what is held where there are keys of a digest. A latent's number follows from those before it.
        self._known: defaultdict[int, dict[str, str]] = defaultdict(dict)
        self._chunk: int | None = None
        self._first, self._latents = 0, 0

    def observe(self, sign: WindowSign) -> _Held | None:
        """Take the next observation; what it shows of a window, if anything."""
        layer = block_of(sign.key.site)
        if layer is None or not sign.marks:
            return None
        if sign.key.site.endswith(KEYS):
            self._learn(layer, sign)
            return None
        return _Held(sign.key, [self._name(layer, mark) for mark in sign.marks])

    def _learn(self, layer: int, sign: WindowSign) -> None:
        """Keys were rotated: those of the latents of a chunk, which are numbered through."""
        if sign.key.unit != self._chunk:
            self._first, self._latents = self._first + self._latents, len(sign.marks)
            self._chunk = sign.key.unit
        step = "" if sign.key.phase == CLEAN else f" as of denoise step {sign.key.step}"
        for number, mark in enumerate(sign.marks, self._first):
            self._known[layer][mark] = f"latent {number}{step}"

    def _name(self, layer: int, mark: str) -> str:
        """What a slot holds whose keys have this digest."""
        if mark == EMPTY:
            return NOTHING
        found = self._known[layer].get(mark)
        if found is None and self._teacher is not None:
            found = self._teacher._name(layer, mark)
        return found or UNKNOWN


class WindowComparison:
    """Takes the observations of two sides, each side's in its execution order, and keeps the first faults."""

    def __init__(self, *, teacher_forced: bool) -> None:
        self._found: list[tuple[int, int, SlotFault]] = []
        self._reference = WindowSide()
        self._candidate = WindowSide(self._reference if teacher_forced else None)
        self._references: dict[Key, tuple[int, list[str]]] = {}
        self._candidates: dict[Key, list[str]] = {}

    @property
    def faults(self) -> list[SlotFault]:
        """The first faults, in the reference's execution order."""
        return [fault for _, _, fault in self._found]

    def reference(self, order: int, sign: WindowSign) -> None:
        """The reference's next observation; `order` is its place in the execution."""
        if (seen := self._reference.observe(sign)) is not None:
            if (other := self._candidates.pop(seen.key, None)) is not None:
                self._compare(order, seen.key, other, seen.held)
            else:
                self._references[seen.key] = order, seen.held

    def candidate(self, sign: WindowSign) -> None:
        """The candidate's next observation."""
        if (seen := self._candidate.observe(sign)) is not None:
            if (other := self._references.pop(seen.key, None)) is not None:
                self._compare(other[0], seen.key, seen.held, other[1])
            else:
                self._candidates[seen.key] = seen.held

    def _compare(self, order: int, key: Key, actual: list[str], expected: list[str]) -> None:
        layer = block_of(key.site)
        for slot, (held, right) in enumerate(zip(actual, expected, strict=False)):
            if right not in (held, UNKNOWN):
                where = f"layer {layer}, chunk {key.unit}, {key.phase} step {key.step}: slot {slot}"
                fault = SlotFault(
                    cache=f"kv_cache.layers.{layer}",
                    unit=key.unit,
                    phase=key.phase,
                    step=key.step,
                    slot=slot,
                    message=f"{where} holds {held}, expected {right}",
                )
                insort(self._found, (order, slot, fault), key=lambda found: found[:2])
        del self._found[MOST_FAULTS:]


def _is_cache(site: str) -> bool:
    return site.startswith("kv_cache.layers.") and site.endswith(CACHE)


def _tables(folder: Path, layer: int | None, faults: Collection[SlotFault] = ()) -> Iterator[CacheTable]:
    """A table for every group of layers with equal maps, or for one layer."""
    described = read_manifest(folder).caches or []
    if not described or (layer is not None and layer not in range(len(described))):
        raise UserError(
            f"{folder}: there is no such window" if described else f"{folder}: does not tell what its windows hold",
            found=f"--layer {layer}" if described else "no `caches` in the manifest",
            expected=f"0 to {len(described) - 1}" if described else "the window of every layer",
            do="correct --layer, or leave it out for every layer" if described else "dump again, on a CPU",
        )
    seen: defaultdict[int, dict[At, list[str]]] = defaultdict(dict)
    side = WindowSide()
    for record in records_mentioning(folder, (KEYS, WINDOW)):
        if record.slots is None or not record.site.endswith((KEYS, WINDOW)):
            continue
        found = side.observe(WindowSign(record.key, list(record.slots)))
        if found is not None and layer in (None, number := block_of(record.site) or 0):
            seen[number][found.key.at] = found.held
    alike: defaultdict[tuple[tuple[At, tuple[str, ...]], ...], list[int]] = defaultdict(list)
    for number, passes in sorted(seen.items()):
        alike[tuple((at, tuple(held)) for at, held in passes.items())].append(number)
    if not alike:
        raise UserError(
            f"{folder}: does not tell what its windows hold",
            found="no record of a window with its slots",
            expected=f"records of *{KEYS} and *{WINDOW}",
            do="dump again on a CPU, with these sites among --sites",
        )
    for held_by_pass, layers in alike.items():
        yield _table(layers, described[layers[0]], held_by_pass, faults)


def _table(
    layers: Sequence[int],
    described: Mapping[str, Any],
    passes: Sequence[tuple[At, tuple[str, ...]]],
    faults: Collection[SlotFault],
) -> CacheTable:
    slots = [f"slot {slot}" for slot in range(described["slots"])]
    rows, marks, before = [], set[tuple[int, str]](), [NOTHING] * len(slots)
    wrong = {
        (At(fault.unit, fault.phase, fault.step), fault.slot) for fault in faults if block_of(fault.cache) in layers
    }
    for number, (at, held) in enumerate(passes):
        now = [*held, *[NOTHING] * (len(slots) - len(held))][: len(slots)]
        cells = [f"*{_short(new)}" if new != old else _short(new) for old, new in zip(before, now, strict=True)]
        gone = [_short(old) for old in before if old not in (NOTHING, *now) and _latent(old) not in map(_latent, now)]
        rows.append([str(at.unit), f"{at.phase} {at.step}", *cells, ", ".join(gone)])
        marks |= {(number, slots[slot]) for slot in range(len(slots)) if (at, slot) in wrong}
        before = now
    names = f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    title = f"{names}: a window of {described['slots']} latents, of which {described['sink']} stay"
    return CacheTable(title, ["chunk", "pass", *slots, "evicted"], rows, marks)


def _latent(held: str) -> str:
    return held.partition(" as of")[0]


def _short(held: str) -> str:
    """What a slot holds, in a cell: `8`, `8@3`."""
    signs = {NOTHING: ".", UNKNOWN: "?"}
    return signs.get(held, held.removeprefix("latent ").replace(" as of denoise step ", "@"))
