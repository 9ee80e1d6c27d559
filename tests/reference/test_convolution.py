import pytest
import torch
from conftest import randomise
from torch.nn.utils.parametrizations import weight_norm

from reference.eager.convolution import Convolution, NormalisedWeight


def test_every_output_channel_has_the_norm_of_its_magnitude() -> None:
    weight = NormalisedWeight(inputs=4, outputs=3, kernel=3)
    randomise(weight)
    norms = weight().flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, weight.original0.abs().flatten())


@pytest.mark.parametrize(("kernel", "groups", "bias"), [(1, 1, True), (3, 1, True), (3, 2, True), (1, 1, False)])
def test_it_loads_and_computes_what_a_weight_normalised_conv2d_does(kernel: int, groups: int, bias: bool) -> None:
    expected = weight_norm(torch.nn.Conv2d(4, 6, kernel, padding=kernel // 2, groups=groups, bias=bias))
    randomise(expected)
    convolution = Convolution(4, 6, kernel, groups=groups, bias=bias)
    convolution.load_state_dict(expected.state_dict(), strict=True)
    x = torch.randn(1, 4, 5, 7)
    torch.testing.assert_close(convolution(x), expected(x))
