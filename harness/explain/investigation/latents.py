"""The latents that a dump keeps: those after every step."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import TENSORS_NAME
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Key, Order
from waypoint_parity.harness.run.sites import Kind

Latents = Mapping[Key, Tensor]


def read_latents(dump: Path, family: Family) -> Latents:
    """The latents in the folder of a dump; none where it keeps no tensors. Raises UserError for a broken file."""
    path = dump / TENSORS_NAME
    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            named = ((name, Key.parse(name)) for name in file.keys())  # noqa: SIM118 - a handle is no mapping
            return {key: file.get_tensor(name) for name, key in named if key is not None and is_latent(key, family)}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read",
            found=str(error),
            expected="the tensors that a finished dump keeps",
            do="dump again",
        ) from error


def is_latent(key: Key, family: Family) -> bool:
    """Whether the latent of a step is seen at `key`."""
    row = family.sites.of(key.site, key.phase)
    return row is not None and row.kind is Kind.LATENT


def final_latents(latents: Latents, site: str, order: Order) -> dict[int, Tensor]:
    """What `site` shows after the last step of every unit: what is decoded. In the order of the session."""
    seen = sorted((key for key in latents if key.site == site), key=lambda key: (order.rank(key.at), key.call))
    return {key.unit: latents[key] for key in seen}
