"""The weight-normalised convolution that the autoencoder is built of."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d


class NormalisedWeight(nn.Module):
    """A convolution's weight, stored as magnitude and direction (Salimans & Kingma 2016, equation 2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.original0 = nn.Parameter(torch.empty(outputs, 1, 1, 1))
        self.original1 = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel))

    def forward(self) -> Tensor:
        """The weight, [out,in,k,k]: direction * magnitude / ||direction||, the norm taken per output channel."""
        magnitude, direction = self.original0, self.original1
        return direction * magnitude / direction.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


class Convolution(nn.Module):
    """A weight-normalised convolution that keeps height and width; odd kernel, zero padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.groups = groups
        self.padding = kernel // 2
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.parametrizations = nn.ModuleDict({"weight": NormalisedWeight(inputs // groups, outputs, kernel)})

    def forward(self, x: Tensor) -> Tensor:
        """[1,in,H,W] -> [1,out,H,W]."""
        weight = self.parametrizations["weight"]()
        return conv2d(x, weight, self.bias, padding=self.padding, groups=self.groups)
