"""The typed config of a checkpoint: that of Wan 2.1, and how much of the past a chunk attends to."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.config import WanTransformer, official_config, official_transformer

CLASS = "CausalWanModel"
# A model whose `local_attn_size` is -1 attends to everything, of a session of at most so many latents.
EVERYTHING, MOST_LATENTS = -1, 21
_KEYS = ("local_attn_size", "sink_size")


@dataclass(frozen=True)
class CausalWanGeometry:
    """The transformer of Wan 2.1, which attends to a window of `local_attn_size` latents, `sink_size` the first."""

    transformer: WanTransformer
    local_attn_size: int
    sink_size: int

    @property
    def slots(self) -> int:
        """Latents that the window holds, those of the sink among them."""
        return MOST_LATENTS if self.local_attn_size == EVERYTHING else self.local_attn_size

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The config of the only component as plain values."""
        window = {name: getattr(self, name) for name in _KEYS}
        return {"transformer": {**dataclasses.asdict(self.transformer), **window}}


def read_config(values: Mapping[str, Any], text_dim: int, source: str) -> CausalWanGeometry:
    """config.json as the class saves it; the width of the text is read off the weights. Raises UserError."""
    told = [values.get(name) for name in _KEYS]
    # Neither is a size: -2.
    window, sink = (number if type(number) is int else -2 for number in told)
    if not 0 <= sink < (MOST_LATENTS if window == EVERYTHING else window) <= 2**20 or (window == EVERYTHING and sink):
        raise UserError(
            f"{source}: the window of the past is none of a model",
            found=", ".join(f"{name} {value!r}" for name, value in zip(_KEYS, told, strict=True)),
            expected=f"a number of latents and a smaller sink of it, or {EVERYTHING} and no sink",
            do="take the config.json that was saved with these weights",
        )
    rest = {key: value for key, value in values.items() if key not in _KEYS}
    return CausalWanGeometry(official_transformer(rest, text_dim, source), window, sink)


def written_config(geometry: CausalWanGeometry) -> dict[str, Any]:
    """config.json as the class saves it."""
    window = {name: getattr(geometry, name) for name in _KEYS}
    return {**official_config(geometry.transformer), "_class_name": CLASS, **window}
