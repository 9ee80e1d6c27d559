"""Two modules of torch: what is the same passes, and what is wrong is named at its own submodule."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import waypoint_parity as wp
from tests.harness.api.nets import WIDTH, Mlp, Net, Pair, Repeated, Returns, Times, draw, port, seeded
from waypoint_parity.harness.judge.comparison import MATHEMATICS, PRECISION

X = draw(2, 5, WIDTH)


def first_site(comparison: wp.Comparison) -> str:
    assert comparison.first is not None
    return comparison.first.site


@pytest.fixture
def net() -> Net:
    return seeded(Net)


# --- what is right


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_module_is_identical(net: Net, dtype: torch.dtype) -> None:
    net = net.to(dtype)
    comparison = wp.module_parity(net, port(net), X.to(dtype))
    assert comparison.verdict is wp.Verdict.IDENTICAL
    # Norm, three of the feed-forward, itself and the block, of three blocks; the head, and two tensors of the output.
    assert comparison.compared == comparison.expected == 3 * 6 + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_order_of_the_same_sums_passes(net: Net, dtype: torch.dtype) -> None:
    class Split(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            half = self.in_features // 2
            return x[..., :half] @ self.weight[:, :half].T + (x[..., half:] @ self.weight[:, half:].T + self.bias)

    net = net.to(dtype)
    other = port(net)
    for block in other.blocks:
        block.mlp.up.__class__ = Split
    comparison = wp.module_parity(net, other, X.to(dtype))
    assert comparison.verdict is wp.Verdict.WITHIN_NOISE
    assert comparison.worst is not None
    assert comparison.worst.distance > 0


def test_modules_and_inputs_stay_as_they_are(net: Net) -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(WIDTH, WIDTH)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.layer(x.mul_(2)).add_(self.calls)

    writes, x = seeded(Writes), X.clone()
    # The second call depends on the first.
    assert wp.module_parity(writes, port(writes), [x, x])
    assert torch.equal(x, X)
    assert writes.calls.item() == 0
    assert not any(module._forward_hooks for module in writes.modules())


# --- what is wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [1 + 1e-3, 1 + 1e-6])
def test_a_wrong_submodule_in_the_middle_is_named(net: Net, dtype: torch.dtype, factor: float) -> None:
    net = net.to(dtype)
    wrong = port(net)
    wrong.blocks[1].mlp.act = Times(wrong.blocks[1].mlp.act, factor)
    comparison = wp.module_parity(net, wrong, X.to(dtype))
    assert not comparison
    assert comparison.question == MATHEMATICS
    assert first_site(comparison) == "blocks.1.mlp.act"


def test_less_precision_than_the_reference_is_named(net: Net) -> None:
    class Rough(nn.GELU):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).bfloat16().float()

    wrong = port(net)
    wrong.blocks[2].mlp.act = Rough().eval()
    comparison = wp.module_parity(net, wrong, X)
    assert (bool(comparison), first_site(comparison)) == (False, "blocks.2.mlp.act")
    assert comparison.question == PRECISION
    assert wp.module_parity(net, wrong, X, precision="bf16")


def test_what_no_shadow_follows_is_judged_by_itself(net: Net) -> None:
    class InNumPy(nn.GELU):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: Tensor) -> Tensor:
            erf = torch.from_numpy(0.5 * (1 + torch.erf(x / math.sqrt(2)).numpy()))
            return x * erf * self.factor

    def with_act(factor: float) -> Any:
        other = port(net)
        other.blocks[1].mlp.act = InNumPy(factor).eval()
        return other

    assert wp.module_parity(net, with_act(1.0), X)
    comparison = wp.module_parity(net, with_act(1.001), X)
    assert (bool(comparison), first_site(comparison)) == (False, "blocks.1.mlp.act")


def test_swapped_names_are_found(net: Net) -> None:
    swap = {r"^blocks\.0": "blocks.x", r"^blocks\.1": "blocks.0", r"^blocks\.x": "blocks.1"}
    comparison = wp.module_parity(net, port(net), X, rename=swap, accept_inputs=("weights",))
    assert comparison.verdict is wp.Verdict.DIVERGED
    assert first_site(comparison).startswith("blocks.0.")


def test_a_lost_bias_is_named(net: Net) -> None:
    wrong = port(net)
    wrong.blocks[1].mlp.up.bias = None
    comparison = wp.module_parity(net, wrong, X)
    assert comparison.verdict is wp.Verdict.DIVERGED
    assert first_site(comparison) == "blocks.1.mlp.up"
    assert any("blocks.1.mlp.up.bias" in note for note in comparison.notes)


def test_a_module_that_the_candidate_never_calls_is_missing(net: Net) -> None:
    class Inlined(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            up = nn.functional.linear(x, self.up.weight, self.up.bias)
            return self.down(self.act(up))

    wrong = port(net)
    wrong.blocks[1].mlp.__class__ = Inlined
    comparison = wp.module_parity(net, wrong, X)
    assert comparison.verdict is wp.Verdict.MISSING
    assert first_site(comparison) == "blocks.1.mlp.up"
    assert wp.module_parity(net, wrong, X, allow_missing=("blocks.1.mlp.up",))


def test_each_call_of_a_module_is_compared() -> None:
    right = seeded(lambda: Repeated(4))
    wrong = port(right)
    wrong.wrong = 1
    comparison = wp.module_parity(right, wrong, X)
    assert comparison.first is not None
    # Added behind the second call: the third one shows it.
    assert (comparison.first.site, comparison.first.call) == ("layer", 2)
    wrong.wrong, wrong.times = None, 5
    assert wp.module_parity(right, wrong, X).counts["MISSING"] == 1


def test_a_later_call_of_several_is_named() -> None:
    class Forgets(nn.Linear):
        """Right where the sum of the input is positive."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.sum() > 0 else super().forward(x) * 1.01

    right = seeded(lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH)))
    wrong = port(right)
    wrong[0].__class__ = Forgets
    comparison = wp.module_parity(right, wrong, [X.abs(), -X.abs()])
    assert comparison.first is not None
    assert (comparison.first.unit, comparison.first.site) == (1, "0")


# --- outputs and inputs of every form


@pytest.mark.parametrize(
    ("form", "site"),
    [
        (lambda x: (x, x + 1), "(output):1"),
        (lambda x: [x, None, x + 1], "(output):2"),
        (lambda x: {"a": x, "b": {"c": x + 1}}, "(output):b.c"),
        (lambda x: Pair(x, x + 1), "(output):right"),
        (lambda x: (Pair(x, None), (x + 1,)), "(output):1.0"),
        (lambda x: x + 1, "(output)"),
    ],
)
def test_the_wrong_tensor_of_an_output_is_named(form: Any, site: str) -> None:
    right = seeded(lambda: Returns(form))
    assert wp.module_parity(right, port(right), X).verdict is wp.Verdict.IDENTICAL
    wrong = port(right)

    def off(x: Tensor) -> Any:
        # One of the tensors, and no other, is off.
        marked = form(x)
        right_one = form(torch.zeros_like(x))
        return _where_one(marked, right_one)

    wrong.form = off
    assert first_site(wp.module_parity(right, wrong, X)) == site


def _where_one(value: Any, zeros: Any) -> Any:
    """`value`, off where `zeros` has ones."""
    if isinstance(value, Tensor):
        return value * 1.001 if bool((zeros == 1).all()) else value
    if isinstance(value, dict):
        return {key: _where_one(value[key], zeros[key]) for key in value}
    if isinstance(value, Pair):
        return Pair(*(_where_one(getattr(value, key), getattr(zeros, key)) for key in ("left", "right")))
    return None if value is None else type(value)(_where_one(*pair) for pair in zip(value, zeros, strict=True))


def test_a_tensor_that_one_side_returns_is_missing() -> None:
    right, wrong = seeded(lambda: Returns(lambda x: (x, x + 1))), seeded(lambda: Returns(lambda x: (x, None)))
    comparison = wp.module_parity(right, wrong, X)
    assert (comparison.verdict, first_site(comparison)) == (wp.Verdict.MISSING, "(output):1")


@pytest.mark.parametrize("inputs", [X, (X,), {"x": X}, wp.Call(X), wp.Call(x=X), [X, (X,)]])
def test_inputs_come_in_every_form(net: Net, inputs: Any) -> None:
    comparison = wp.module_parity(net, port(net), inputs)
    assert comparison.compared == 21 * (len(inputs) if isinstance(inputs, list) else 1)


@pytest.mark.parametrize("inputs", [[], 3, None, [[X]]])
def test_what_is_no_input_is_refused(net: Net, inputs: Any) -> None:
    with pytest.raises(wp.UserError, match="arguments"):
        wp.module_parity(net, port(net), inputs)


def test_an_empty_output_is_no_pass() -> None:
    right = seeded(lambda: Returns(lambda x: x[:0]))
    empty = wp.module_parity(right, port(right), X, rename=[("^layer$", "")])
    assert (empty.verdict, bool(empty)) == (wp.Verdict.MISSING, False)


def test_pictures_without_a_pixel_are_no_pass() -> None:
    right = seeded(lambda: Returns(lambda x: torch.zeros(0, 4, 4, 3, dtype=torch.uint8)))
    assert not wp.module_parity(right, port(right), X, rename=[("^layer$", "")])


def test_nan_on_both_sides_is_no_pass() -> None:
    right = seeded(lambda: Returns(lambda x: x * math.nan))
    comparison = wp.module_parity(right, port(right), X)
    assert not comparison
    assert comparison.contradictions


# --- names


class Renamed(nn.Module):
    """Net under other names."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.layers = net.blocks
        self.out = net.head

    def forward(self, x: Tensor) -> Any:
        for layer in self.layers:
            x = layer(x)
        return {"y": self.out(x), "hidden": x}


RULES = {r"^layers\b": "blocks", "^out$": "head"}


@pytest.mark.parametrize("rules", [RULES, list(RULES.items()), [f"{old}={new}" for old, new in RULES.items()]])
def test_names_are_matched_by_rules(net: Net, rules: Any) -> None:
    comparison = wp.module_parity(net, Renamed(port(net)).eval(), X, rename=rules)
    assert (comparison.verdict, comparison.compared, comparison.notes) == (wp.Verdict.IDENTICAL, 21, [])


def test_what_has_no_partner_is_listed(net: Net) -> None:
    comparison = wp.module_parity(net, Renamed(port(net)).eval(), X, rename=[(r"^layers\b", "blocks")])
    assert comparison
    told = " ".join(comparison.notes)
    assert "head" in told
    assert "out" in told
    assert "blocks" not in told


def test_no_name_in_common_is_an_error(net: Net) -> None:
    with pytest.raises(wp.UserError) as refused:
        wp.module_parity(net, Renamed(port(net)).eval(), X)
    assert "layers.0" in refused.value.found
    assert "blocks.0" in refused.value.expected


@pytest.mark.parametrize("rules", [["(=x"], [("(", "x")], ["no rule"], [("a", "b", "c")], {r"^blocks\.\d": "block"}])
def test_a_rule_that_is_none_is_refused(net: Net, rules: Any) -> None:
    with pytest.raises(wp.UserError):
        wp.module_parity(net, port(net), X, rename=rules)


def test_a_module_that_is_none_on_one_side_is_listed(net: Net) -> None:
    other = port(net)
    net.blocks[0].register_module("drop", None)
    other.blocks[0].drop = nn.Identity().eval()
    other.blocks[0].register_forward_pre_hook(lambda module, inputs: (module.drop(*inputs),))
    comparison = wp.module_parity(net, other, X)
    assert comparison
    assert any("blocks.0.drop" in note for note in comparison.notes)


# --- the first questions


def test_unequal_weights_are_told_before_layers(net: Net) -> None:
    other = port(net)
    with torch.no_grad():
        other.blocks[2].mlp.down.weight[0, 0] += 1e-3
    comparison = wp.module_parity(net, other, X)
    assert (comparison.verdict, first_site(comparison)) == (wp.Verdict.INCOMPARABLE, "blocks.2.mlp.down.weight")
    assert "blocks.2.mlp.down.weight" in str(comparison)
    lifted = wp.module_parity(net, other, X, accept_inputs=("weights",))
    assert (lifted.verdict, first_site(lifted)) == (wp.Verdict.DIVERGED, "blocks.2.mlp.down")


def test_weights_that_lie_transposed_are_the_same(net: Net) -> None:
    class Transposed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight + self.bias

    other = port(net)
    other.head.__class__ = Transposed
    other.head.weight = nn.Parameter(net.head.weight.T.contiguous())
    assert wp.module_parity(net, other, X)


def test_unequal_buffers_are_told() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(WIDTH))

    right = seeded(normed)
    wrong = port(right)
    wrong[0].running_var += 1
    comparison = wp.module_parity(right, wrong, X[:, 0])
    assert first_site(comparison) == "0"
    assert any("0.running_var" in note for note in comparison.notes)


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_training_mode_is_refused(net: Net, side: str) -> None:
    other = port(net)
    {"reference": net, "candidate": other}[side].blocks[1].train()
    with pytest.raises(wp.UserError) as refused:
        wp.module_parity(net, other, X)
    assert "blocks.1" in refused.value.found
    assert side in refused.value.what


def test_a_module_that_draws_is_refused() -> None:
    drawing = seeded(lambda: Returns(lambda x: nn.functional.dropout(x, 0.5, training=True)))
    with pytest.raises(wp.UserError, match="again"):
        wp.module_parity(drawing, port(drawing), X)


def test_a_module_that_fails_is_told_with_its_place(net: Net) -> None:
    failing = port(net)
    failing.blocks[1].register_forward_pre_hook(lambda module, inputs: (inputs[0][..., :3],))
    with pytest.raises(wp.EngineError) as failed:
        wp.module_parity(net, failing, X)
    assert "blocks.0" in failed.value.what


def test_a_module_that_returns_nothing_is_refused() -> None:
    nothing = seeded(lambda: Returns(lambda x: "text"))
    with pytest.raises(wp.UserError):
        wp.module_parity(nothing, port(nothing), X)


@pytest.mark.parametrize("given", [{"precision": "fp4"}, {"accept_inputs": ("sigma",)}])
def test_an_option_that_is_none_is_refused(net: Net, given: Any) -> None:
    other = port(net)
    with torch.no_grad():
        other.head.bias += 1
    with pytest.raises(wp.UserError):
        wp.module_parity(net, other, X, **given)


def test_what_is_no_module_is_refused(net: Net) -> None:
    not_a_module: Any = len
    with pytest.raises(wp.UserError):
        wp.module_parity(net, not_a_module, X)


# --- the result


def test_without_the_shadow_the_tolerance_judges(net: Net) -> None:
    wrong = port(net)
    wrong.blocks[1].mlp.act = Times(wrong.blocks[1].mlp.act, 1.001)
    comparison = wp.module_parity(net, wrong, X, exact=False)
    assert (bool(comparison), first_site(comparison)) == (False, "blocks.1.mlp.act")
    assert wp.module_parity(net, wrong, X, exact=False, tolerance=0.1)
    assert comparison.mathematics is None


def test_a_result_is_a_truth_a_text_and_a_document(net: Net) -> None:
    import msgspec

    wrong = port(net)
    wrong.head = Times(wrong.head, 1.1)
    comparison = wp.module_parity(net, wrong, X)
    assert not comparison
    assert "head" in str(comparison)
    assert "head" in repr(comparison)
    assert str(comparison).splitlines()[0] in comparison._repr_html_()
    assert msgspec.json.decode(comparison.to_json(), type=wp.Comparison) == comparison


def test_what_is_computed_in_fp64_is_as_exact_as_that() -> None:
    """By NumPy, which no shadow follows: less than a rounding of fp32 is wrong there."""

    class Scaled(nn.Module):
        def __init__(self, linear: nn.Linear, factor: float) -> None:
            super().__init__()
            self.weight, self.factor, self.out = linear.weight.detach().numpy(), factor, nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            shown: Tensor = self.out(torch.from_numpy(x.numpy() @ self.weight.T * self.factor))
            return shown

    linear = nn.Linear(16, 16, bias=False).double().eval()
    whole = nn.Sequential().eval()
    whole.add_module("out", linear)
    x = torch.randn(4, 16, dtype=torch.float64)
    assert wp.module_parity(whole, Scaled(linear, 1.0).eval(), x)
    assert not wp.module_parity(whole, Scaled(linear, 1 + 1e-9).eval(), x)


class Turned(nn.Module):
    """Multiplies by a table, which is a buffer or made anew in every call; `step` is that of its frequencies."""

    def __init__(self, linear: nn.Linear, *, held: bool, step: float = 1.0) -> None:
        super().__init__()
        self.linear, self.step, self.after = linear, step, nn.Identity()
        self.register_buffer("held", self.table() if held else None, persistent=False)

    def table(self) -> Tensor:
        return torch.cos(torch.arange(WIDTH, dtype=torch.float32) * self.step)

    def forward(self, x: Tensor) -> Tensor:
        table = self.table() if self.held is None else self.held
        shown: Tensor = self.after(self.linear(x) * table)
        return shown


def test_a_table_may_be_held_by_one_side_and_computed_by_the_other() -> None:
    linear, x = nn.Linear(WIDTH, WIDTH), torch.randn(3, WIDTH)
    held, computed = (Turned(linear, held=held).eval() for held in (True, False))
    assert wp.module_parity(held, computed, x)
    assert wp.module_parity(computed, held, x)
    comparison = wp.module_parity(held, Turned(linear, held=False, step=1 + 1e-5).eval(), x)
    assert comparison.first is not None
    assert comparison.first.site == "after"


class Saying(nn.Module):
    def __init__(self, linear: nn.Linear, text: str) -> None:
        super().__init__()
        self.linear, self.text = linear, text

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"x": self.linear(x), "mode": self.text}


def test_texts_that_a_module_returns_are_to_be_equal() -> None:
    linear, x = nn.Linear(WIDTH, WIDTH), torch.randn(3, WIDTH)
    assert wp.module_parity(Saying(linear, "a").eval(), Saying(linear, "a").eval(), x)
    assert not wp.module_parity(Saying(linear, "a").eval(), Saying(linear, "b").eval(), x)
