"""The key/value rings by meaning: which frame each slot holds, told from what one implementation showed. No torch.

A slot's content is known by its keys: the same bytes as the keys that some pass has rotated (`attn.k_rope`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.run.keys import Key, block_of

# The marks of a slot (harness/families/waypoint/rings/slots.py), where they are not the digest of its keys.
ALL, NONE, MIXED, EMPTY, NOT_A_NUMBER = "1", "0", "mixed", "empty", "nan"

NOTHING = "nothing"
NO_NUMBER = "nothing but NaN"
UNKNOWN = "unknown content"


def ring_part(site: str) -> str | None:
    """What a site of a key/value ring shows: "kv", "written" or "visible"; None for any other site."""
    return site.rpartition(".")[2] if site.startswith("kv_cache.layers.") else None


def tells_of_a_ring(site: str) -> bool:
    """Whether the observations of a site are of use to a RingSide."""
    return ring_part(site) is not None or site.endswith(".attn.k_rope")


class RingGeometry(msgspec.Struct, frozen=True, kw_only=True):
    """One layer's ring: `frames` of capacity, of which frames / dilation slots of T = `tokens` are used, and a tail."""

    name: str
    kind: Literal["local", "global"]
    frames: int
    dilation: int
    tokens: int

    @property
    def slots(self) -> int:
        """The slots in use."""
        return self.frames // self.dilation


def ring_geometries(config: TransformerConfig) -> list[RingGeometry]:
    """The ring of every layer."""
    return [
        RingGeometry(
            name=f"kv_cache.layers.{layer}",
            kind="global" if config.is_global(layer) else "local",
            frames=config.ring_frames(layer),
            dilation=config.dilation(layer),
            tokens=config.tokens_per_frame,
        )
        for layer in range(config.n_layers)
    ]


def geometries_of(described: Sequence[Mapping[str, Any]]) -> list[RingGeometry]:
    """The rings that a manifest describes."""
    return msgspec.convert(list(described), list[RingGeometry])


class Sign(NamedTuple):
    """What one observation tells of rings: `digest` of the whole tensor, `marks` of its slots, as far as known."""

    key: Key
    dtype: str | None
    digest: str | None
    marks: list[str] | None


class Sighting(NamedTuple):
    """The slots of one layer's ring as one observation shows them, the tail last.

    `marks` are those of the observation; `held` says of every slot what it held by then, None where never told.
    """

    key: Key
    layer: int
    part: str
    marks: list[str]
    held: list[str] | None


class _Rotated(NamedTuple):
    """The keys of one pass: its frame, and what a slot is said to hold that holds them."""

    frame: int
    dtype: str | None
    name: str


class RingSide:
    """The rings of one implementation, followed through its observations. Memory grows with the slots alone."""

    def __init__(self, teacher: "RingSide | None" = None) -> None:
        """`teacher`: the side whose keys this one is given after every frame, if any."""
        self._teacher = teacher
        self._rotated: defaultdict[int, dict[str, _Rotated]] = defaultdict(dict)
        self._marks: dict[int, list[str]] = {}
        self._held: dict[int, list[str]] = {}

    def observe(self, sign: Sign) -> Sighting | None:
        """Take the next observation, in execution order; what it shows of a ring, if anything."""
        layer, part = block_of(sign.key.site), ring_part(sign.key.site)
        if layer is None:
            return None
        if part is None:
            if sign.digest is not None and sign.key.site.endswith(".attn.k_rope"):
                self._learn(layer, sign.key, sign.digest, sign.dtype)
            return None
        if sign.marks is None:
            return None
        if part == "kv":
            self._hold(layer, sign.key, sign.marks, sign.dtype)
        return Sighting(sign.key, layer, part, sign.marks, self._held.get(layer))

    def name_of(self, layer: int, mark: str) -> str | None:
        """What a slot holds whose keys have the digest `mark`; None where no pass is known to have rotated them."""
        if mark == NOT_A_NUMBER:
            return NO_NUMBER
        rotated = self._rotated[layer].get(mark)
        if rotated is not None:
            return rotated.name
        return self._teacher.name_of(layer, mark) if self._teacher is not None else None

    def _learn(self, layer: int, key: Key, digest: str, dtype: str | None) -> None:
        """Keys were rotated. Those of older frames are forgotten unless a slot holds them."""
        known, held = self._rotated[layer], self._marks.get(layer, [])
        if all(rotated.frame != key.unit for rotated in known.values()):
            recent = key.unit - 1
            known = {mark: rotated for mark, rotated in known.items() if rotated.frame >= recent or mark in held}
            self._rotated[layer] = known
        known[digest] = _Rotated(key.unit, dtype, _name(key))

    def _hold(self, layer: int, key: Key, marks: list[str], dtype: str | None) -> None:
        """Name what the slots hold. Where no keys of this frame were told of, the tail is taken to hold the frame."""
        known = self._rotated[layer].values()
        if not any(rotated.frame == key.unit and rotated.dtype == dtype for rotated in known):
            self._learn(layer, key, marks[-1], dtype)
        self._marks[layer] = marks
        self._held[layer] = [NOTHING if mark == EMPTY else self.name_of(layer, mark) or UNKNOWN for mark in marks]


def frame_name(key: Key) -> str:
    """The frame of a pass, in words. A seed image has the number of the frame after it."""
    return "the image" if key.phase == "image" else f"frame {key.unit}"


def _name(key: Key) -> str:
    """What a slot holds that holds the keys of a pass: normally those of the finished frame."""
    return f"{frame_name(key)} as of denoise step {key.step}" if key.phase == "denoise" else frame_name(key)
