"""Small modules, and ports of them with one thing wrong."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 8


class Mlp(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=bias)
        self.act = nn.GELU()
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.mlp = Mlp()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Net(nn.Module):
    """Blocks, and an output in a dict."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Any:
        for block in self.blocks:
            x = block(x)
        return {"y": self.head(x), "hidden": x}


class Times(nn.Module):
    """Another module, whose result is times a factor."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.__dict__.update(inner.__dict__)
        self.inner_forward, self.factor = type(inner).forward, factor

    def forward(self, *args: Any) -> Any:
        return self.inner_forward(self, *args) * self.factor


@dataclass
class Pair:
    """An output that is a dataclass."""

    left: Tensor
    right: Tensor | None


class Returns(nn.Module):
    """A linear layer, whose result comes in some form."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(WIDTH, WIDTH), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.layer(x))


class Repeated(nn.Module):
    """A layer that is called several times, `wrong` the number of the call after which something is added."""

    def __init__(self, times: int, wrong: int | None = None) -> None:
        super().__init__()
        self.layer, self.times, self.wrong = nn.Linear(WIDTH, WIDTH), times, wrong

    def forward(self, x: Tensor) -> Tensor:
        for number in range(self.times):
            x = self.layer(x)
            if number == self.wrong:
                x = x + 1e-3
        return x


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """A module with weights of a seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def port(module: nn.Module) -> Any:
    """The same module again."""
    return copy.deepcopy(module)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
