"""The keys of a window, told latent by latent in a word each, small enough for a record."""

import torch
from torch import Tensor

from waypoint_parity.harness.families.causal_wan.caches import EMPTY
from waypoint_parity.harness.run.digest import fast_digest


def digests(tensor: Tensor, *, window: bool) -> list[str] | None:
    """The digest of the keys of every latent: of a window [2,1,slots,T,H,D], of keys [1,N,T,H,D] alone.

    None for a tensor of another shape, and on an accelerator, which would have to send the tensor home for it.
    """
    if tensor.device.type != "cpu" or tensor.dim() != (6 if window else 5):
        return None
    keys = tensor[0] if window else tensor
    blank = fast_digest(torch.zeros_like(keys[:, 0]))
    found = (fast_digest(keys[:, latent]) for latent in range(keys.shape[1]))
    return [EMPTY if digest == blank else digest for digest in found]
