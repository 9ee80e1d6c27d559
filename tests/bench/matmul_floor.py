"""What a pass costs at the least: its matrix products and attention calls alone, on the operands that it has."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::_scaled_dot_product_")


class ProductCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Keeps every product and attention call made in its context, with its operands."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().startswith(PRODUCTS):
            self.calls.append(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


def matmul_floor(work: Callable[[], None]) -> Callable[[], None]:
    """Only the products and attention calls of `work`, to be run again."""
    # Under inference mode, linear would arrive whole.
    with torch.no_grad(), ProductCalls() as products:
        work()

    def floor() -> None:
        for call in products.calls:
            call()

    return floor
