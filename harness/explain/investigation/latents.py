"""The latents that a dump keeps: those after every denoise step."""

import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.writer import TENSORS_NAME

_NAME = re.compile(r"f(\d+)/denoise(\d+)/latent")

# [1,1,C,h*ph,w*pw], by frame and step.
Latents = Mapping[tuple[int, int], Tensor]


def read_latents(dump: Path) -> Latents:
    """The latents in the folder of a dump; none where it keeps no tensors. Raises UserError for a broken file."""
    path = dump / TENSORS_NAME
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            named = [(name, _NAME.fullmatch(name)) for name in file.keys()]  # noqa: SIM118 - a handle is no mapping
            return {(int(at[1]), int(at[2])): file.get_tensor(name) for name, at in named if at}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read",
            found=str(error),
            expected="the tensors that a finished dump keeps",
            do="dump again",
        ) from error


def final_latents(latents: Latents) -> dict[int, Tensor]:
    """The latent after the last step of every frame: what is decoded. In the order of the frames."""
    return {frame: latents[frame, step] for frame, step in sorted(latents)}
