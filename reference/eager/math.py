"""The tensor functions of the transformer: normalisation, attention, and the rotation by position."""

import math

import torch
from torch import Tensor

# What torch.nn.functional.rms_norm takes where eps is unset; for a bf16 input too, because it computes in fp32.
RMS_NORM_EPS = torch.finfo(torch.float32).eps
# Of the rotation, where a config names no other: the highest spatial frequency as a share of the shorter side of the
# token grid (Nyquist would be 1), and the base of the temporal ones.
SPATIAL_BAND = 0.8
TEMPORAL_BASE = 10000.0


def rms_norm(x: Tensor) -> Tensor:
    """`x` [..., width], any float dtype, divided by its root mean square over the last axis; no learned weight."""
    x32 = x.float()
    mean_square = x32.square().mean(dim=-1, keepdim=True)
    return (x32 * torch.rsqrt(mean_square + RMS_NORM_EPS)).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, every query seeing every key.

    q [1,H,T,D], k and v [1,G,S,D] with G dividing H: query head j reads key/value head j // (H/G). Returns [1,H,T,D].

    Scores and softmax are fp32. The probabilities multiply v in the dtype of v. On golden/bf16 that is bit-identical at
    the first self- and cross-attention; fp32 probabilities are off by 3.4e-3 there, and bf16 scores by 3.4e-3.
    """
    heads_per_group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(heads_per_group, dim=1)
    v = v.repeat_interleave(heads_per_group, dim=1)
    scores = q.float() @ k.float().transpose(-2, -1) / q.shape[-1] ** 0.5
    out: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return out


def rotation_angles(
    clock: int,
    height: int,
    width: int,
    head_dim: int,
    *,
    band: float = SPATIAL_BAND,
    base: float = TEMPORAL_BASE,
    through: torch.dtype = torch.float32,
) -> Tensor:
    """OrthoRoPE: rotation angles [T,D/2] in radians, fp32, of one frame's tokens in row-major order.

    The D/2 pairs are, in this order: D/8 for x (along the width), D/8 for y, D/4 for the rotation clock. Two
    consecutive pairs share a frequency; the frequencies pass `through` a dtype. Always on the CPU, so that every device
    rotates by the same table.
    """
    spatial = spatial_frequencies(height, width, head_dim, band).to(through).float()
    temporal = temporal_frequencies(head_dim, base).to(through).float()
    along_x = torch.outer(coordinates(width), spatial)
    along_y = torch.outer(coordinates(height), spatial)
    along_t = clock * temporal
    per_axis = [
        along_x[None, :, :].expand(height, width, -1),
        along_y[:, None, :].expand(height, width, -1),
        along_t.expand(height, width, -1),
    ]
    return torch.cat(per_axis, dim=-1).flatten(0, 1)


def cosines_and_sines(angles: Tensor) -> Tensor:
    """The rotation by `angles` [T,D/2], as [2,1,1,T,D/2]: cosines, then sines."""
    return torch.stack([angles.cos(), angles.sin()])[:, None, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the consecutive pairs (x[2j], x[2j+1]) of `x` [1,heads,T,D]; same shape and dtype.

    `rotation` [2,1,1,T,D/2] fp32: cosines, then sines. The output is not interleaved: first components of all pairs,
    then the second ones. The rotation computes in fp32.
    """
    cos, sin = rotation
    first, second = x.float()[..., 0::2], x.float()[..., 1::2]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


def coordinates(count: int) -> Tensor:
    """Centres of `count` equal cells of [-1,1]: (2i + 1) / count - 1."""
    return torch.linspace(-1 + 1 / count, 1 - 1 / count, count, device="cpu")


def spatial_frequencies(height: int, width: int, head_dim: int, band: float) -> Tensor:
    """[D/8] radians per unit coordinate: pi .. pi * F/2, F the number of cycles that the grid can carry."""
    cycles = band * min(height, width)
    return (math.pi * torch.linspace(1, cycles / 2, head_dim // 16, device="cpu")).repeat_interleave(2)


def temporal_frequencies(head_dim: int, base: float) -> Tensor:
    """[D/4] radians per tick of the rotation clock: base ** (-2i / (D/4))."""
    share = head_dim // 4
    exponents = torch.arange(0, share, 2, device="cpu").float() / share
    return (1.0 / base**exponents).repeat_interleave(2)
