"""The two-layer perceptron that the whole model uses."""

from torch import Tensor, nn
from torch.nn.functional import silu


class MLP(nn.Module):
    """fc2(silu(fc1(x))), without biases."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y: Tensor = self.fc2(silu(self.fc1(x)))
        return y
