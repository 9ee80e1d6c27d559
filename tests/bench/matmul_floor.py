"""What work costs at the least: its products and attention calls alone, or its convolutions, on their operands."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_dot_product_")
CONVOLUTIONS = ("aten::convolution",)


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Keeps every call of some operators made in its context, with its operands."""

    def __init__(self, operators: tuple[str, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = operators
        self.calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(self.operators):
            self.calls.append(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def matmul_floor(work: Callable[[], object], operators: tuple[str, ...] = PRODUCTS) -> Callable[[], None]:
    """Only the products and attention calls of `work`, or its calls of other `operators`, to be run again."""
    # Under inference mode, linear would arrive whole.
    with torch.no_grad(), Calls(operators) as found:
        work()

    def floor() -> None:
        for call in found.calls:
            call()

    return floor
