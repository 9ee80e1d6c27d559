"""From what a decoder computes to the pictures that are looked at."""

import torch
from torch import Tensor, nn


class Pictures(nn.Module):
    """[n,3,H,W], 0 dark and 1 bright -> [n,H,W,3] uint8; one picture alone is [H,W,3]."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Whatever is out of range is cut off; levels are rounded in the dtype of `pixels`."""
        levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
        return levels.contiguous().squeeze(0)
