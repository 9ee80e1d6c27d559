"""Checkpoints of causal Wan on disk: config.json and the weights, as the official class saves them."""

import json
from pathlib import Path

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.stored import read_mapping, save_weights, sharded
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.causal_wan.config import CLASS, read_config, written_config
from waypoint_parity.harness.run.family import Opened

OFFICIAL = "official"
CONFIG = "config.json"
WEIGHTS = tuple(
    f"diffusion_pytorch_model{ending}" for ending in (".safetensors", ".safetensors.index.json", "-*-of-*.safetensors")
)
_TEXT = "text_embedding.0.weight"


def layout_of(folder: Path) -> str | None:
    """The layout that a folder has; None where its config names another class, or where there is none."""
    try:
        values = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return None
    return OFFICIAL if isinstance(values, dict) and values.get("_class_name") == CLASS else None


def opened(folder: Path) -> Opened:
    """The checkpoint in a folder."""
    weights = sharded(folder / WEIGHTS_NAME)
    text = weights.shapes().get(_TEXT, ())
    if len(text) != 2:
        raise UserError(
            f"{folder}: not the weights of a causal Wan",
            found=listed(sorted(weights.shapes())) or "no weights",
            expected=f"{_TEXT} in {WEIGHTS_NAME}",
            do="fetch the checkpoint again",
        )
    geometry = read_config(read_mapping(folder / CONFIG), text[1], str(folder / CONFIG))
    return Opened(geometry, {"transformer": weights})


def write_official(checkpoint: Checkpoint, folder: Path) -> None:
    """What the class itself would save."""
    (folder / CONFIG).write_text(json.dumps(written_config(checkpoint.geometry), indent=2) + "\n", "utf-8")
    save_weights(dict(checkpoint.files["transformer"].stream()), folder / WEIGHTS_NAME)
