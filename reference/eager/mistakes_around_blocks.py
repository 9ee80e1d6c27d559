"""Mistakes around the blocks: where and when a token is, rings, patches, the noise level, the sampler."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.reference.eager.kv_cache import RingCache
from waypoint_parity.reference.eager.math import (
    SPATIAL_BAND,
    TEMPORAL_BASE,
    coordinates,
    cosines_and_sines,
    spatial_frequencies,
    temporal_frequencies,
)
from waypoint_parity.reference.eager.mistakes import Mistake
from waypoint_parity.reference.eager.session import Session


@dataclass(frozen=True)
class Places:
    """What angles are made of.

    coordinates: number of cells of an axis -> where they lie
    spatial, temporal: head width and band or base -> frequencies [D/8] of an axis, and [D/4] of time
    time: frame -> the frame that is taken for it
    """

    coordinates: Callable[[int], Tensor] = coordinates
    spatial: Callable[[int, int, int, float], Tensor] = spatial_frequencies
    temporal: Callable[[int, float], Tensor] = temporal_frequencies
    time: Callable[[int, TransformerConfig], int] = lambda frame, config: frame


def _placed(places: Places, session: Session) -> None:
    """Every frame is rotated by these places."""
    frame = [0]
    session.input["timestamp"].register_forward_hook(partial(_note, frame))
    session.model.transformer.rope_angles.register_forward_pre_hook(partial(_rotation, places, session, frame))


def _note(frame: list[int], module: nn.Module, given: object, timestamp: Tensor) -> None:
    frame[0] = int(timestamp)


def _rotation(places: Places, session: Session, frame: list[int], module: nn.Module, given: tuple[Tensor]) -> Tensor:
    config = session.model.config
    second = config.is_waypoint_15
    band, base = (config.rope_nyquist_frac, config.rope_theta) if second else (SPATIAL_BAND, TEMPORAL_BASE)
    frequencies = [
        places.spatial(config.height, config.width, config.head_dim, band),
        places.temporal(config.head_dim, base),
    ]
    if second:
        frequencies = [table.to(session.dtype).float() for table in frequencies]
    spatial, temporal = frequencies
    grid = config.height, config.width, -1
    along_x = torch.outer(places.coordinates(config.width), spatial)[None, :, :].expand(grid)
    along_y = torch.outer(places.coordinates(config.height), spatial)[:, None, :].expand(grid)
    along_t = (places.time(frame[0], config) * config.clock_ratio * temporal).expand(grid)
    turned = cosines_and_sines(torch.cat([along_x, along_y, along_t], dim=-1).flatten(0, 1))
    return (turned if second else turned.to(session.dtype).float()).to(given[0])


COORDINATES: dict[str, Callable[[int], Tensor]] = {
    "from -1 to 1, corner to corner": lambda count: torch.linspace(-1, 1, count),
    "counted from 0": lambda count: torch.arange(count).float(),
    "centres of cells from 0 to 1": lambda count: (torch.arange(count) + 0.5) / count,
    "from 0 to 1, corner to corner": lambda count: torch.linspace(0, 1, count),
    "counted from the middle": lambda count: torch.arange(count) - (count - 1) / 2,
}


def _each_in_time(head_dim: int, base: float) -> Tensor:
    share = head_dim // 4
    return 1.0 / base ** (torch.arange(share).float() / share)


def _tiled_in_time(head_dim: int, base: float) -> Tensor:
    return temporal_frequencies(head_dim, base)[::2].repeat(2)


def _each_in_space(height: int, width: int, head_dim: int, band: float) -> Tensor:
    return math.pi * torch.linspace(1, band * min(height, width) / 2, head_dim // 8)


def _tiled_in_space(height: int, width: int, head_dim: int, band: float) -> Tensor:
    return spatial_frequencies(height, width, head_dim, band)[::2].repeat(2)


FREQUENCIES: dict[str, Places] = {
    "each pair of time its own": Places(temporal=_each_in_time),
    "each pair of x and y its own": Places(spatial=_each_in_space),
    "each pair its own": Places(temporal=_each_in_time, spatial=_each_in_space),
    "those of time tiled, not in pairs": Places(temporal=_tiled_in_time),
    "those of x and y tiled, not in pairs": Places(spatial=_tiled_in_space),
    "all tiled, not in pairs": Places(temporal=_tiled_in_time, spatial=_tiled_in_space),
    "up to Nyquist": Places(
        spatial=lambda height, width, head_dim, band: spatial_frequencies(height, width, head_dim, 1)
    ),
    **{
        f"base {base:g} in time": Places(
            temporal=partial(lambda base, head_dim, _: temporal_frequencies(head_dim, base), base)
        )
        for base in (1000.0, 100000.0, 1000000.0)
    },
}
CLOCKS: dict[str, Callable[[int, TransformerConfig], int]] = {
    "starts again when the local ring is full": lambda frame, config: frame % config.local_window,
    "starts again when the dilated ring is full": lambda frame, config: frame % config.global_window,
    "stops when the local ring is full": lambda frame, config: min(frame, config.local_window - 1),
    "stops when the dilated ring is full": lambda frame, config: min(frame, config.global_window - 1),
    "begins at 1": lambda frame, config: frame + 1,
    "stands still": lambda frame, config: 0,
    "runs backwards": lambda frame, config: -frame,
}

# --- rings


def _rings(change: Callable[[RingCache], None], session: Session) -> None:
    for ring in session.kv_cache.rings():
        change(ring)


def _fewer_slots(dilated: bool | None, ring: RingCache) -> None:
    if dilated is None or (ring.dilation > 1) is dilated:
        ring.slots -= 1


def _undilated(ring: RingCache) -> None:
    ring.dilation = 1


def _written_in_other_frames(ring: RingCache) -> None:
    ring.is_write_frame = partial(_last_of_each, ring)  # type: ignore[method-assign]
    ring.slot = partial(_slot_of_last, ring)  # type: ignore[method-assign]


def _last_of_each(ring: RingCache, frame: int) -> bool:
    return (frame + 1) % ring.dilation == 0


def _slot_of_last(ring: RingCache, frame: int) -> int:
    return frame // ring.dilation % ring.slots


# --- patches


def _kernel(order: str, session: Session) -> None:
    """The kernel of the patch embedding as if stored in this order of axes."""
    patchify, (height, width) = session.model.patchify, session.model.config.patch
    flat = patchify.weight.flatten(1)
    sizes = {"C": patchify.weight.shape[1], "y": height, "x": width}
    weight = rearrange(flat, f"M ({order}) -> M C y x", **{axis: sizes[axis] for axis in order.split()})
    patchify.weight = nn.Parameter(weight.contiguous(), requires_grad=False)


def _column_by_column(session: Session) -> None:
    session.model.patchify.register_forward_hook(lambda _, given, out: out.transpose(2, 3).reshape(out.shape))


def _patches(order: str, session: Session) -> None:
    """What the head gives for a patch, read in this order of axes."""
    config = session.model.config
    sizes = {"C": config.channels, "y": config.patch[0], "x": config.patch[1]}
    pattern = f"B T ({order}) -> B T (C y x)"
    session.model.unpatchify.register_forward_hook(
        lambda _, given, patches: rearrange(patches, pattern, **{axis: sizes[axis] for axis in order.split()})
    )


def _unbiased(session: Session) -> None:
    head = session.model.unpatchify
    head.bias = nn.Parameter(torch.zeros_like(head.bias), requires_grad=False)


def _with_head_input(of: Callable[[Tensor], Tensor], session: Session) -> None:
    lit: list[Tensor] = []
    session.model.out_norm.register_forward_hook(lambda _, given, out: lit.__setitem__(slice(None), [out]))
    session.model.unpatchify.register_forward_pre_hook(lambda _, given: of(lit[0]))


_ORDERS = ("C x y", "y x C", "x y C", "x C y", "y C x")

# --- noise levels and steps


def _levels(of: Callable[[Tensor], Tensor], session: Session) -> None:
    session.model.denoise_step_emb.register_forward_pre_hook(lambda _, given: of(given[0]))


def _waves_side_by_side(session: Session) -> None:
    session.model.denoise_step_emb.mlp.register_forward_pre_hook(
        lambda _, given: torch.stack(given[0].chunk(2, -1), -1).flatten(-2)
    )


def _waves_side_by_side_cosine_first(session: Session) -> None:
    session.model.denoise_step_emb.mlp.register_forward_pre_hook(
        lambda _, given: torch.stack(given[0].chunk(2, -1)[::-1], -1).flatten(-2)
    )


LEVELS: dict[str, Callable[[Tensor], Tensor]] = {
    "cut to whole thousandths": lambda sigma: (sigma * 1000).floor() / 1000,
    "rounded to whole thousandths": lambda sigma: (sigma * 1000).round() / 1000,
    "through fp16": lambda sigma: sigma.half().to(sigma.dtype),
    "through bf16": lambda sigma: sigma.bfloat16().to(sigma.dtype),
    "1 - sigma": lambda sigma: 1 - sigma,
    "in thousandths less one": lambda sigma: sigma - 1e-3,
}


class _Stepper:
    """A sampler of another form, which knows its noise level and what the unit began with.

    `made` of latent, change of sigma, velocity, sigma, the first latent, and the velocity before: None in a first step.
    """

    def __init__(self, made: "Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]") -> None:
        self.made = made
        self.sigma = torch.tensor(1.0)
        self.first: Tensor | None = None
        self.before: Tensor | None = None

    def step(self, x: Tensor, change: Tensor, velocity: Tensor) -> Tensor:
        """See reference.eager.generations.Generation.step."""
        first = x if self.first is None else self.first
        stepped = self.made(x, change, velocity, self.sigma, first, self.before)
        self.first, self.before = first, velocity
        return stepped

    def begin(self, module: nn.Module, given: object, noise: Tensor) -> None:
        """A unit begins."""
        self.first = self.before = None

    def level(self, module: nn.Module, given: object, sigma: Tensor) -> None:
        """The step has this noise level."""
        self.sigma = sigma


def _stepping(
    made: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor], session: Session
) -> None:
    stepper = _Stepper(made)
    session.input["noise"].register_forward_hook(stepper.begin)
    session.input["sigma"].register_forward_hook(stepper.level)
    session.model.generation = replace(session.model.generation, step=stepper.step)


def _second_order(
    x: Tensor, change: Tensor, velocity: Tensor, sigma: Tensor, first: Tensor, before: Tensor | None
) -> Tensor:
    return x + change * (velocity if before is None else 1.5 * velocity - 0.5 * before)


def _noised_anew(
    x: Tensor, change: Tensor, velocity: Tensor, sigma: Tensor, first: Tensor, before: Tensor | None
) -> Tensor:
    return x - sigma * velocity + (sigma + change) * first


def _clean(x: Tensor, change: Tensor, velocity: Tensor, sigma: Tensor, first: Tensor, before: Tensor | None) -> Tensor:
    return x + change * (x - velocity) / sigma


def _upwards(
    x: Tensor, change: Tensor, velocity: Tensor, sigma: Tensor, first: Tensor, before: Tensor | None
) -> Tensor:
    return x - change * velocity


ANGLES = "coordinates, frequencies or time of the rotation in another form"
TIME = "rotation's clock starts again, stops or is off"
SAMPLER = "a sampler of another form: of second order, or noised anew"
MISTAKES = (
    *(Mistake(ANGLES, f"coordinates {said}", partial(_placed, Places(where))) for said, where in COORDINATES.items()),
    *(Mistake(ANGLES, f"frequencies: {said}", partial(_placed, places)) for said, places in FREQUENCIES.items()),
    *(Mistake(TIME, f"it {said}", partial(_placed, Places(time=time))) for said, time in CLOCKS.items()),
    *(
        Mistake("ring of another length", f"{said} one slot shorter", partial(_rings, partial(_fewer_slots, dilated)))
        for said, dilated in (("local rings", False), ("dilated rings", True), ("every ring", None))
    ),
    Mistake(
        "every layer one sliding window, without dilation",
        "every frame kept in every ring",
        partial(_rings, _undilated),
    ),
    Mistake("dilated ring keeps other frames", "the last of each run", partial(_rings, _written_in_other_frames)),
    *(
        Mistake(
            "patches read in another order, or tokens column by column", f"kernel as ({order})", partial(_kernel, order)
        )
        for order in _ORDERS
    ),
    Mistake("patches read in another order, or tokens column by column", "tokens column by column", _column_by_column),
    *(Mistake("patches written in another order", f"({order})", partial(_patches, order)) for order in _ORDERS),
    Mistake("silu missing before the last projection, or its bias", "no bias", _unbiased),
    Mistake(
        "silu missing before the last projection, or its bias", "no silu", partial(_with_head_input, lambda lit: lit)
    ),
    Mistake("sines and cosines in another order", "a sine and its cosine side by side", _waves_side_by_side),
    Mistake(
        "sines and cosines in another order", "a cosine and its sine side by side", _waves_side_by_side_cosine_first
    ),
    *(Mistake("noise level rounded, or counted otherwise", said, partial(_levels, of)) for said, of in LEVELS.items()),
    Mistake(SAMPLER, "Adams-Bashforth of second order", partial(_stepping, _second_order)),
    Mistake(SAMPLER, "to the clean latent, and noised anew from there", partial(_stepping, _noised_anew)),
    Mistake("velocity taken for the clean latent, or for noise", "for the clean latent", partial(_stepping, _clean)),
    Mistake("step with another sign or size", "upwards", partial(_stepping, _upwards)),
)
