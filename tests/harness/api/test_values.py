"""assert_parity: tensors, arrays, mappings, lists and dumps."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import waypoint_parity as wp
from tests.harness.api.nets import draw
from waypoint_parity.harness.api.baseline import accept, first_unlike

X = draw(4, 6)


def failure(actual: Any, expected: Any, **options: Any) -> wp.Comparison:
    with pytest.raises(wp.ParityError) as failed:
        wp.assert_parity(actual, expected, **options)
    assert isinstance(failed.value, AssertionError)
    return failed.value.comparison


@pytest.mark.parametrize(
    "made",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: {"a": x, "b": x.numpy()},
        lambda x: [("a", x), ("b", x + 1)],
        lambda x: [x, (x, {"c": x})],
        lambda x: x.to_sparse(),
        lambda x: torch.complex(x, x),
        lambda x: x.to(torch.bfloat16),
        lambda x: (x * 100).to(torch.int16),
        lambda x: x > 0,
        lambda x: float(x.sum()),
    ],
)
def test_equal_values_of_every_kind_pass(made: Any) -> None:
    assert wp.assert_parity(made(X.clone()), made(X)).verdict is wp.Verdict.IDENTICAL


@pytest.mark.parametrize(("dtype", "passes", "fails"), [(torch.float32, 1e-6, 1e-4), (torch.bfloat16, 1e-2, 1e-1)])
def test_the_distance_is_judged_by_the_dtype(dtype: torch.dtype, passes: float, fails: float) -> None:
    x = X.to(dtype)
    assert wp.assert_parity((X * (1 + passes)).to(dtype), x)
    assert failure((X * (1 + fails)).to(dtype), x).verdict is wp.Verdict.DIVERGED
    assert wp.assert_parity((X * (1 + fails)).to(dtype), x, tolerance=0.2)


def test_the_first_divergence_in_the_order_of_what_is_expected_is_named() -> None:
    expected = {"norm": X, "attn": X + 1, "mlp": X + 2}
    actual = {"mlp": X, "attn": X + 1.01, "norm": X}
    comparison = failure(actual, expected)
    assert comparison.first is not None
    assert (comparison.first.site, comparison.counts["DIVERGED"]) == ("attn", 2)
    assert "attn" in str(comparison)


def test_whole_numbers_are_equal_or_not() -> None:
    large = torch.full((1000,), 1 << 30)
    off = large.clone()
    off[7] += 1
    assert failure(off, large).verdict is wp.Verdict.DIVERGED


@pytest.mark.parametrize(
    ("actual", "expected", "site"),
    [
        ({"a": X}, {"a": X, "b": X}, "b"),
        ({"a": X, "b": X}, {"a": X}, "b"),
        ([X, X], [X], "1"),
    ],
)
def test_what_one_side_lacks_is_no_pass(actual: Any, expected: Any, site: str) -> None:
    comparison = failure(actual, expected)
    assert comparison.first is not None
    assert (comparison.verdict, comparison.first.site) == (wp.Verdict.MISSING, site)
    assert wp.assert_parity(actual, expected, allow_missing=(site,))


@pytest.mark.parametrize("nothing", [{}, [], X[:0], {"a": X[:0]}, np.zeros((0, 4, 4, 3), np.uint8)])
def test_nothing_is_no_pass(nothing: Any) -> None:
    assert failure(nothing, nothing).verdict is wp.Verdict.MISSING


def test_not_a_number_on_both_sides_is_no_pass() -> None:
    hollow = torch.full((3,), math.nan)
    assert failure(hollow, hollow.clone()).contradictions
    assert failure({"a": hollow, "b": X}, {"a": hollow, "b": X}).contradictions
    one = X.clone()
    one[0, 0] = math.nan
    assert failure(one, X).verdict is wp.Verdict.DIVERGED


def test_an_input_that_differs_is_told_before_layers() -> None:
    comparison = failure({"input.x": X + 1, "layer": X + 1}, {"input.x": X, "layer": X})
    assert comparison.first is not None
    assert (comparison.verdict, comparison.first.site) == (wp.Verdict.INCOMPARABLE, "input.x")


def test_other_shapes_are_no_pass() -> None:
    assert failure(X.T, X).verdict is wp.Verdict.DIVERGED


def test_arrays_of_other_libraries_are_taken() -> None:
    class Array:
        """As NumPy's protocol has it."""

        def __init__(self, x: Tensor) -> None:
            self.x = x

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.x.numpy()

    assert wp.assert_parity(Array(X), X)


@pytest.mark.parametrize("wrong", [None, "text", object(), {"a": None}, np.array(["a"]), torch.empty(2, device="meta")])
def test_what_is_no_tensor_is_refused(wrong: Any) -> None:
    with pytest.raises(wp.UserError):
        wp.assert_parity(wrong, X)


def test_two_values_of_one_name_are_refused() -> None:
    with pytest.raises(wp.UserError, match="name"):
        wp.assert_parity([("a", X), ("a", X)], X)


def test_whole_keys_are_units_and_steps() -> None:
    comparison = failure({"u2/denoise1/latent": X + 1}, {"u2/denoise1/latent": X})
    assert comparison.first is not None
    assert comparison.first.key[:4] == (2, "denoise", 1, "latent")


def test_dumps_are_asserted_too(two_dumps: tuple[Path, Path]) -> None:
    right, wrong = two_dumps
    assert wp.assert_parity(right, wp.load_dump(right))
    assert failure(str(wrong), right).verdict is wp.Verdict.DIVERGED


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_of_a_large_tensor_elements_that_were_not_kept_are_noticed(dtype: torch.dtype, tmp_path: Path) -> None:
    picture = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).to(dtype)
    accept({"frame": picture}, "test", tmp_path / "__parity__" / "it.json")

    def unlike(actual: Tensor) -> str | None:
        return first_unlike({"frame": actual}, tmp_path / "__parity__" / "it.json", rtol=None, atol=None)

    assert unlike(picture.clone()) is None
    assert unlike(picture[..., [0, 2, 1]]) is not None
    assert unlike(torch.cat([picture[..., :1], picture[..., 1:].flip(0)], -1)) is not None
    if dtype is torch.float32:
        assert unlike(picture * (1 + 1e-7)) is None
        exchanged = picture.flatten()
        exchanged[[1, 2]] = exchanged[[2, 1]]
        assert unlike(exchanged.reshape(picture.shape)) is not None
