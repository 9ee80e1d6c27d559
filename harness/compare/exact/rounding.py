"""Rounding otherwise: what another order of the same operations could have returned."""

from collections.abc import Callable

import torch
from torch import Tensor

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd: a step of what makes numbers random.
_MIX = 0x369DEA0F31A53F85
# Elements at a time: what is made of them stays in the cache of a processor.
_AT_ONCE = 1 << 15


def either_neighbour(y: Tensor, dtype: torch.dtype, salt: int) -> Tensor:
    """`y` fp64, rounded to the value of `dtype` below or above it; what lies in `dtype` stays.

    Which of the two is as good as random, and the same for equal values, as with every rounding: it follows from the
    bits of `y` and an odd `salt` below 2^63.
    """
    return _by_parts(y, lambda part: _either_neighbour(part, dtype, salt))


def one_unit_off(x: Tensor, salt: int) -> Tensor:
    """`x` moved to the next value of its dtype on either side, as fp64; 0 stays. For `salt` see `either_neighbour`."""
    return _by_parts(x, lambda part: _one_unit_off(part, salt))


def _by_parts(x: Tensor, moved: Callable[[Tensor], Tensor]) -> Tensor:
    if x.is_complex():
        return torch.view_as_complex(_by_parts(torch.view_as_real(x.resolve_conj()), moved))
    if x.device.type != "cpu" or x.numel() <= _AT_ONCE:
        return moved(x)
    out = torch.empty(x.shape, dtype=torch.float64)
    for part, into in zip(x.reshape(-1).split(_AT_ONCE), out.view(-1).split(_AT_ONCE), strict=True):
        into.copy_(moved(part))
    return out


def _either_neighbour(y: Tensor, dtype: torch.dtype, salt: int) -> Tensor:
    y = y.contiguous()
    near = y.to(dtype)
    rounded = near.double()
    toward = torch.add(rounded, y - rounded, alpha=2.0**30).to(dtype)
    step = torch.nextafter(near, toward).double().sub_(rounded)
    heads = (y.view(torch.int64) * salt < 0).double()
    return torch.where(rounded.isfinite(), torch.addcmul(rounded, step, heads), rounded)


def _one_unit_off(x: Tensor, salt: int) -> Tensor:
    x = x.contiguous()
    bits = x.view(_BITS[x.dtype.itemsize])
    if x.dtype.itemsize < 4:
        # Neighbours in so few bits would all go the same way with some salts.
        bits = bits.to(torch.int64) * salt
        heads = ((bits ^ (bits >> 32)) * _MIX < 0).double()
    else:
        heads = (bits * (salt % (1 << (8 * x.dtype.itemsize - 1))) < 0).double()
    # A little more than half a unit in the last place of any value: rounded, it is one.
    half = torch.finfo(x.dtype).eps * 0.5005
    return heads.mul_(2 * half).add_(1 - half).mul_(x).to(x.dtype).double()
