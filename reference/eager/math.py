"""The two tensor functions that every layer shares: normalisation and attention."""

import torch
from torch import Tensor

# What torch.nn.functional.rms_norm takes where eps is unset; for a bf16 input too, because it computes in fp32.
RMS_NORM_EPS = torch.finfo(torch.float32).eps


def rms_norm(x: Tensor) -> Tensor:
    """`x` [..., width], any float dtype, divided by its root mean square over the last axis; no learned weight."""
    x32 = x.float()
    mean_square = x32.square().mean(dim=-1, keepdim=True)
    return (x32 * torch.rsqrt(mean_square + RMS_NORM_EPS)).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, every query seeing every key.

    q [1,H,T,D], k and v [1,G,S,D] with G dividing H: query head j reads key/value head j // (H/G). Returns [1,H,T,D].

    Scores and softmax are fp32; the probabilities meet v in its own dtype. On golden/bf16 that is bit-identical at the
    first self- and cross-attention, where fp32 probabilities are off by 3.4e-3 and bf16 scores by 3.4e-3.
    """
    heads_per_group = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(heads_per_group, dim=1)
    v = v.repeat_interleave(heads_per_group, dim=1)
    scores = q.float() @ k.float().transpose(-2, -1) / q.shape[-1] ** 0.5
    out: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return out
