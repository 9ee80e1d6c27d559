from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from waypoint_parity.reference.eager.convolution import Convolution, NormalisedWeight


def test_every_output_channel_has_the_norm_of_its_magnitude(randomise: Callable[[nn.Module], None]) -> None:
    weight = NormalisedWeight(inputs=4, outputs=3, kernel=3)
    randomise(weight)
    norms = weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, weight.original0.abs().flatten())


@pytest.mark.parametrize(("kernel", "groups", "bias"), [(1, 1, True), (3, 1, True), (3, 2, True), (1, 1, False)])
def test_it_loads_and_computes_what_a_weight_normalised_conv2d_does(
    kernel: int, groups: int, bias: bool, randomise: Callable[[nn.Module], None]
) -> None:
    expected = weight_norm(nn.Conv2d(4, 6, kernel, padding=kernel // 2, groups=groups, bias=bias))
    randomise(expected)
    actual = Convolution(4, 6, kernel, groups=groups, bias=bias)
    actual.load_state_dict(expected.state_dict(), strict=True)
    x = torch.randn(1, 4, 5, 7)
    torch.testing.assert_close(actual(x), expected(x))
