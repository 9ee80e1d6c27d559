"""The configs of a checkpoint, for a report that may be written where the checkpoint no longer is. Without torch."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig, TransformerConfig


class Geometry(NamedTuple):
    """The configs of the two models of a checkpoint."""

    transformer: TransformerConfig
    autoencoder: AutoencoderConfig


def read_geometry(checkpoint: Path) -> Geometry | None:
    """The configs of a checkpoint folder in the diffusers layout; None where there is none, or a broken one."""
    try:
        transformer, autoencoder = (_values(checkpoint / part / "config.json") for part in ("transformer", "vae"))
        # Names the model's class for loaders that run a repository's own code.
        transformer.pop("auto_map", None)
        return Geometry(
            TransformerConfig.read(transformer, source="transformer/config.json"),
            AutoencoderConfig.read(autoencoder, source="vae/config.json"),
        )
    except (OSError, ValueError):
        return None


def _values(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values
