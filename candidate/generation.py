"""Where the two generations of Waypoint compute differently, beyond what their configs say. All of it stands here."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def _as_it_is(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x


def _through(x: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 values that went through `dtype`."""
    return x.to(dtype).float()


def _step(latent: Tensor, velocity: Tensor, delta: Tensor) -> Tensor:
    return latent + delta * velocity


def _step_in_fp32(latent: Tensor, velocity: Tensor, delta: Tensor) -> Tensor:
    return (latent.float() + delta.float() * velocity.float()).to(latent.dtype)


def _power(theta: float) -> Callable[[Tensor], Tensor]:
    return lambda exponents: theta**-exponents


def _inverse(theta: float) -> Callable[[Tensor], Tensor]:
    return lambda exponents: 1 / theta**exponents


@dataclass(frozen=True)
class Generation:
    """One generation's habits.

    `read_scroll`: what the model is told of a scroll value [1].
    `euler_step`: latent, velocity, delta [] -> the next latent.
    `falling`: theta -> exponents -> the rotation's temporal frequencies.
    `tables_places`: whether the angles of a token's place are a table, or made with each frame.
    `frequencies_in`, `turns_in`: what a model of a dtype has of the frequencies, and of the cosines and sines.
    `decodes_given`: whether a frame that is given is decoded too.
    """

    read_scroll: Callable[[Tensor], Tensor]
    euler_step: Callable[[Tensor, Tensor, Tensor], Tensor]
    falling: Callable[[float], Callable[[Tensor], Tensor]]
    tables_places: bool
    frequencies_in: Callable[[Tensor, torch.dtype], Tensor]
    turns_in: Callable[[Tensor, torch.dtype], Tensor]
    decodes_given: bool


WAYPOINT_1 = Generation(
    read_scroll=torch.sign,
    euler_step=_step,
    falling=_power,
    tables_places=True,
    frequencies_in=_as_it_is,
    turns_in=_through,
    decodes_given=False,
)
# Its autoencoder remembers: a seed latent that is not decoded changes the pictures of the first frame.
WAYPOINT_15 = Generation(
    read_scroll=torch.positive,
    euler_step=_step_in_fp32,
    falling=_inverse,
    tables_places=False,
    frequencies_in=_through,
    turns_in=_as_it_is,
    decodes_given=True,
)
GENERATIONS = {"waypoint-1": WAYPOINT_1, "waypoint-1.5": WAYPOINT_15}
