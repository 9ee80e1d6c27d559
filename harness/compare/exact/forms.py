"""Exact forms: operations whose shadow is not the same operation in fp64.

Each takes (operation, fp64 arguments, fp64 keywords, the implementation's arguments and keywords, its result) and gives
what takes the place of the result, or NotImplemented where the operation itself will do.
"""

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Of a convolution, pixels from which on a product for each element of the kernel is faster.
_LARGE = 64 * 64
_AT_ONCE = 1 << 14

Form = Callable[[Any, tuple[Any, ...], dict[str, Any], tuple[Any, ...], dict[str, Any], Any], Any]


def _bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument by its name, with the defaults of the schema."""
    arguments = func._schema.arguments
    defaults = {each.name: each.default_value for each in arguments if each.has_default_value()}
    return {**defaults, **dict(zip((each.name for each in arguments), args, strict=False)), **kwargs}


def _rms_norm(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """An epsilon that is not given depends on the dtype: it stays that of the implementation's."""
    given = _bound(func, args, wide)
    if given["eps"] is None:
        given["eps"] = torch.finfo(torch.float64 if own[0].dtype is torch.float64 else torch.float32).eps
    return func(*(given[each.name] for each in func._schema.arguments))


def _nan_to_num(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """What takes the place of infinity depends on the dtype."""
    given, limits = _bound(func, args, wide), torch.finfo(own[0].dtype)
    highest, lowest = (given[name] for name in ("posinf", "neginf"))
    return torch.nan_to_num(
        args[0], given["nan"], limits.max if highest is None else highest, limits.min if lowest is None else lowest
    )


def _chosen(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """(values, indices): the values that lie where the implementation found its own."""
    if not isinstance(out, tuple):
        return NotImplemented
    x, indices = args[0], out[1]
    if x.dim() == 0:
        return x, indices
    dim = _bound(func, args, wide)["dim"] % x.dim()
    if indices.dim() == x.dim():
        return x.gather(dim, indices), indices
    return x.gather(dim, indices.unsqueeze(dim)).squeeze(dim), indices


def _rest(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """What is left of x when y was taken from it as often as the implementation did."""
    if out is None:
        raise NotImplementedError("in place")
    x, y = args[0], args[1] if len(args) > 1 else 1.0
    divisor = own[1] if len(own) > 1 else 1.0
    taken = (_exact(own[0]) - _exact(out)) / _exact(divisor)
    return x - taken.round() * y


def _exact(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) else x


def _div(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """Rounded to whole numbers: the implementation's own."""
    return NotImplemented if kwargs.get("rounding_mode") is None else out


def _nearest(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """The elements that the implementation took: coordinates are rounded differently in fp64."""
    x = args[0]
    shape = x.shape[2:]
    places = torch.arange(shape.numel(), dtype=torch.float32, device=x.device).view(1, 1, *shape)
    if shape.numel() > 1 << 24:
        return NotImplemented  # fp32 does not number them
    taken = func(places, *args[1:], **wide).long()
    return x.flatten(2)[..., taken.flatten()].view(*x.shape[:2], *taken.shape[2:])


def _grid_sample(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """With the nearest element, that of the implementation."""
    if _bound(func, own, kwargs)["interpolation_mode"] != 1:
        return NotImplemented
    return func(args[0], own[1].double(), *args[2:], **wide)


def _attention(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """Fused kernels that know no fp64: the formula. What they return besides is the implementation's."""
    given = _bound(func, args, wide)
    mask = given.get("attn_mask", given.get("attn_bias"))
    q, k, v = given["query"], given["key"], given["value"]
    found = functional.scaled_dot_product_attention(
        q, k, v, mask, is_causal=given["is_causal"], scale=given.get("scale"), enable_gqa=q.shape[1] != k.shape[1]
    )
    return (found, *out[1:])


def _convolution(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """Of large pictures one product for each element of the kernel: torch's fp64 kernel takes three times as long.

    The padded picture lies flat, so that a step of the kernel is an offset. What runs over the end of a row is cut off.
    """
    given = _bound(func, args, wide)
    x, weight, groups = given["input"], given["weight"], given["groups"]
    *_, high, across = weight.shape
    plain = x.dim() == 4 and high * across > 1 and not isinstance(given["padding"], str) and not given.get("transposed")
    if not plain or {*given["stride"], *given["dilation"]} != {1} or x.device.type != "cpu" or len(x) != 1:
        return NotImplemented
    if x.shape[-2:].numel() < _LARGE:
        return NotImplemented
    (above, *beside), channels = given["padding"], len(weight)
    beside = beside[0] if beside else above
    padded = functional.pad(x[0], (beside, beside, above, above))
    rows, columns = padded.shape[-2] - high + 1, padded.shape[-1]
    flat = padded.reshape(groups, -1, padded.shape[-2] * columns)
    kernels = weight.reshape(groups, channels // groups, -1, high, across).permute(3, 4, 0, 1, 2).contiguous()
    length = rows * columns - across + 1
    found = x.new_empty(channels, rows * columns)
    sums = found.view(groups, -1, rows * columns)[..., :length]
    sums.zero_() if given["bias"] is None else sums.copy_(given["bias"].view(groups, -1, 1))
    # In parts that stay in a cache while all products are added up.
    for first in range(0, length, _AT_ONCE):
        part = sums[..., first : first + _AT_ONCE]
        for row, column in product(range(high), range(across)):
            start = first + row * columns + column
            part.baddbmm_(kernels[row, column], flat[..., start : start + part.shape[-1]])
    return found.view(1, channels, rows, columns)[..., : columns - across + 1]


def _where(func: Any, args: Any, wide: Any, own: Any, kwargs: Any, out: Any) -> Any:
    """Of two numbers of the code one; they would be rounded to the default dtype."""
    if any(isinstance(x, Tensor) for x in args[1:]):
        return NotImplemented
    numbers = (torch.tensor(x, dtype=torch.float64, device=args[0].device) for x in args[1:])
    return torch.where(args[0], *numbers)


FORMS: dict[str, Form] = {
    **dict.fromkeys(("rms_norm", "_fused_rms_norm"), _rms_norm),
    "nan_to_num": _nan_to_num,
    "where": _where,
    **dict.fromkeys(("conv2d", "convolution", "_convolution"), _convolution),
    **dict.fromkeys(
        ["max", "min", "median", "nanmedian", "mode", "kthvalue", "topk", "sort", "cummax", "cummin"], _chosen
    ),
    **dict.fromkeys(("remainder", "fmod", "frac"), _rest),
    "div": _div,
    **dict.fromkeys(
        (f"{kind}{rank}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3)), _nearest
    ),
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d", "grid_sampler"), _grid_sample),
    **dict.fromkeys(
        (
            f"_scaled_dot_product_{kind}"
            for kind in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
        ),
        _attention,
    ),
}
