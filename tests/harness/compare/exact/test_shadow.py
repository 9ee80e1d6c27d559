"""The exact shadow: every operation followed in fp64, and what is rounded, chosen or drawn left as it was."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention
from torch.utils._python_dispatch import _disable_current_modes

from waypoint_parity.harness.compare.exact.shadow import Shadow

EXACT = 1e-14


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def away(actual: Tensor, expected: Tensor) -> float:
    """The relative L2 distance of two fp64 tensors of one shape."""
    assert actual.shape == expected.shape
    assert actual.dtype is expected.dtype
    return float((actual - expected).norm() / expected.norm())


def up(x: Tensor) -> Tensor:
    """`x` in fp32; in fp64 where it is that already."""
    return x if x.dtype is torch.float64 else x.float()


def large(x: Tensor) -> Tensor:
    """A picture [1,4,180,160] of x [1,4,6,8]."""
    return x.repeat(1, 1, 30, 20)


def turned(x: Tensor) -> Tensor:
    """A turn for each pair of x [...,8]."""
    return torch.polar(torch.ones(4, dtype=x.dtype), torch.arange(4, dtype=x.dtype) * 0.1)


# By name: what an operation makes of x [2,4,6,8], which was computed.
ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + 0.1,
    "sub-reversed": lambda x: 1 - x,
    "mul-scalar": lambda x: x * 0.1,
    "div": lambda x: x / (x.abs() + 1),
    "pow": lambda x: x.abs() ** 1.7,
    "rsqrt": lambda x: (x * x + 1).rsqrt(),
    "sqrt": lambda x: x.abs().sqrt(),
    "exp": torch.exp,
    "log": lambda x: (x.abs() + 1).log(),
    "sin-cos": lambda x: x.sin() * x.cos(),
    "addcmul": lambda x: torch.addcmul(x, x, x, value=0.3),
    "lerp": lambda x: torch.lerp(x, x * x, 0.3),
    "where": lambda x: torch.where(x > 0, x, -0.1 * x),
    "clamp": lambda x: x.clamp(-0.5, 0.7),
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "masked_fill": lambda x: x.masked_fill(x > 1, 0.3),
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "elu": functional.elu,
    "mish": functional.mish,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.2),
    "glu": functional.glu,
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: functional.log_softmax(x, -1),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "sum": lambda x: x.sum(1),
    "cumsum": lambda x: x.cumsum(-1),
    "var": lambda x: x.var(-1, unbiased=False),
    "norm": lambda x: x.norm(dim=-1),
    "normalize": lambda x: functional.normalize(x, dim=-1),
    "amax": lambda x: x.amax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "layer_norm": lambda x: functional.layer_norm(x, (8,), eps=1e-6),
    "rms_norm-eps": lambda x: functional.rms_norm(x * 1e-3, (8,), eps=1e-5),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "batch_norm": lambda x: functional.batch_norm(x, torch.zeros(4).to(x), torch.ones(4).to(x)),
    "instance_norm": functional.instance_norm,
    "linear": lambda x: functional.linear(x, x[0, 0]),
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "bmm": lambda x: torch.bmm(x[0], x[1].mT),
    "einsum": lambda x: torch.einsum("bchw,bkhw->bck", x, x),
    "baddbmm": lambda x: torch.baddbmm(x[0] @ x[0].mT, x[0], x[1].mT, beta=0.5),
    "conv1d": lambda x: functional.conv1d(x[0], x[1, :3, :, :3]),
    "conv2d": lambda x: functional.conv2d(x, x[:, :, :3, :3], padding=1),
    "conv2d-grouped": lambda x: functional.conv2d(x, x[0, :, None, :3, :3], groups=4),
    "conv2d-large": lambda x: functional.conv2d(large(x[:1]), x[:, :, :3, :2], x[0, 0, :2, 0], padding=(1, 0)),
    "conv2d-large-grouped": lambda x: functional.conv2d(large(x[:1]), x[:, :2, :3, :3], groups=2, padding="same"),
    "conv3d": lambda x: functional.conv3d(x[:, None], x[:, None, :3, :3, :3]),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, x[0, :, None, :3, :3], stride=2),
    "attention": lambda x: functional.scaled_dot_product_attention(x, x, x, scale=0.7),
    "attention-causal": lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention-mask": lambda x: functional.scaled_dot_product_attention(x, x, x, x[..., :6]),
    "avg_pool": lambda x: functional.avg_pool2d(x, 2),
    "max_pool": lambda x: functional.max_pool2d(x, 2),
    "adaptive_avg_pool": lambda x: functional.adaptive_avg_pool2d(x, (3, 3)),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2.3),
    "nearest-exact": lambda x: functional.interpolate(x, size=(11, 13), mode="nearest-exact"),
    "bilinear": lambda x: functional.interpolate(x, size=(11, 13), mode="bilinear"),
    "bicubic": lambda x: functional.interpolate(x, size=(12, 16), mode="bicubic"),
    "antialiased": lambda x: functional.interpolate(up(x), size=(3, 4), mode="bilinear", antialias=True),
    "grid_sample": lambda x: functional.grid_sample(x, (x[:, :2] / 4).permute(0, 2, 3, 1), align_corners=False),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "pad-reflect": lambda x: functional.pad(x, (1, 1, 2, 2), mode="reflect"),
    "unfold": lambda x: functional.unfold(x, 3),
    "cat": lambda x: torch.cat([x, x * x], 1),
    "stack": lambda x: torch.stack([x, x.exp()]),
    "roll": lambda x: x.roll(1, -1),
    "gather": lambda x: x.gather(-1, (x > 0).long()),
    "index": lambda x: x[:, (torch.arange(6) % 4)],
    "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
    "tril": lambda x: x.tril(),
    "embedding": lambda x: functional.embedding(torch.tensor([2, 0]), x[0, 0]),
    "rotated-pairs": lambda x: torch.view_as_real(torch.view_as_complex(up(x).reshape(2, 4, 6, 4, 2)) * turned(up(x))),
    "fft": lambda x: torch.fft.rfft(up(x)).abs(),
    "to-fp32-and-back": lambda x: (up(x) * 0.3).to(x.dtype),
    "chunks": lambda x: torch.cat(x.chunk(3, -1)[::-1], -1),
    "non-contiguous": lambda x: x.permute(3, 1, 0, 2).exp().mT,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("row", ROWS)
def test_an_operation_is_followed(row: str, dtype: torch.dtype) -> None:
    given = drawn(2, 4, 6, 8, dtype=dtype)
    plain = ROWS[row](given * 1.7)
    shadow = Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 1.7
        out = ROWS[row](x)
    assert torch.equal(out, plain)
    assert away(shadow.of(out), ROWS[row](shadow.of(x))) < EXACT
    assert shadow.lost(out) is None
    assert not shadow.below
    assert not shadow.foreign


# Whatever chooses or jumps takes the implementation's choice: what it makes of x, and what that is of the exact x.
CHOICES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "topk": lambda x, exact: (x.topk(3).values, exact.gather(-1, x.topk(3).indices)),
    "sort": lambda x, exact: (x.sort(1).values, exact.gather(1, x.sort(1).indices)),
    "sort-stable": lambda x, exact: (
        x.sort(dim=0, stable=True).values,
        exact.gather(0, x.sort(dim=0, stable=True).indices),
    ),
    "max": lambda x, exact: (x.max(1).values, exact.gather(1, x.max(1).indices[:, None])[:, 0]),
    "min-kept": lambda x, exact: (x.min(1, keepdim=True).values, exact.gather(1, x.min(1, keepdim=True).indices)),
    "median": lambda x, exact: (x.median(-1).values, exact.gather(-1, x.median(-1).indices[..., None])[..., 0]),
    "kthvalue": lambda x, exact: (x.kthvalue(2).values, exact.gather(-1, x.kthvalue(2).indices[..., None])[..., 0]),
    "cummax": lambda x, exact: (x.cummax(2).values, exact.gather(2, x.cummax(2).indices)),
    "argmax": lambda x, exact: (x.flatten()[x.argmax()], exact.flatten()[x.argmax()]),
    "nonzero": lambda x, exact: (x[x > 0], exact[x > 0]),
    "round": lambda x, exact: (x.round(), x.round().double()),
    "floor": lambda x, exact: ((x * 8).floor(), (x * 8).floor().double()),
    "sign": lambda x, exact: (x.sign(), x.sign().double()),
    "floor_divide": lambda x, exact: (x // 0.3, (x // 0.3).double()),
    "div-trunc": lambda x, exact: (
        torch.div(x, 0.3, rounding_mode="trunc"),
        torch.div(x, 0.3, rounding_mode="trunc").double(),
    ),
    "remainder": lambda x, exact: (x % 0.25, exact - (x / 0.25).floor().double() * 0.25),
    "fmod": lambda x, exact: (torch.fmod(x, 0.25), exact - (x / 0.25).trunc().double() * 0.25),
    "unique": lambda x, exact: (x.unique(), x.unique().double()),
    "nearest": lambda x, exact: (
        functional.grid_sample(x, GRID, mode="nearest", align_corners=False),
        functional.grid_sample(exact, GRID.double(), mode="nearest", align_corners=False),
    ),
}
GRID = drawn(2, 5, 5, 2, seed=1) / 3


@pytest.mark.parametrize("row", CHOICES)
def test_a_choice_is_the_implementations(row: str) -> None:
    given = drawn(2, 4, 6, 8)
    # So near to each other that a rounding decides which of two is larger.
    given[..., 1::2] = given[..., ::2] * (1 + 2**-23)
    shadow = Shadow()
    shadow.give([given, GRID])
    with shadow, torch.inference_mode():
        x = given * 1.7
        exact = shadow.of(x).clone()
        out = CHOICES[row](x, x.double())[0]
    assert away(shadow.of(out), CHOICES[row](x, exact)[1]) < EXACT
    assert not shadow.below


def test_writes_in_place_reach_every_view() -> None:
    given, shadow = drawn(4, 6), Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        ring = torch.zeros(3, 4, 6)
        first = ring[1]
        ring[1] = x
        first.mul_(0.7)
        ring[2, :, 1:3].copy_(x[:, :2])
        ring.index_copy_(0, torch.tensor([0]), x.exp()[None])
        torch.add(ring[0], x, out=ring[0])
        ring.masked_fill_(ring > 3, 0.1)
        total = ring.sum()
    exact = given.double() * 0.3
    wanted = torch.zeros(3, 4, 6, dtype=torch.float64)
    wanted[1] = exact * 0.7
    wanted[2, :, 1:3] = exact[:, :2]
    wanted[0] = exact.exp() + exact
    wanted[ring > 3] = 0.1
    assert away(shadow.of(ring), wanted) < EXACT
    assert away(shadow.of(first), wanted[1]) < EXACT
    assert away(shadow.of(total), wanted.sum()) < EXACT


def test_what_moves_within_a_storage_is_not_rounded() -> None:
    """As a window of frames does in bf16: it is written to itself."""
    x = drawn(3, 5, dtype=torch.bfloat16)
    shadow = Shadow()
    shadow.give([x])
    with shadow, torch.inference_mode():
        window = torch.zeros(4, 5, dtype=torch.bfloat16)
        window[1:].copy_(x.exp())
        window[0].copy_(window[3])
        window[1].copy_(window[2])
    exact = x.double().exp()
    assert away(shadow.of(window), torch.stack((exact[2], exact[1], exact[1], exact[2]))) < 1e-15


def test_what_is_rounded_on_purpose_stays_rounded() -> None:
    weight, shadow = drawn(4, 4), Shadow()
    shadow.give([weight])
    linear = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    with shadow, torch.inference_mode():
        table = (torch.arange(4) * 0.1).to(torch.bfloat16)
        filled = torch.full((4,), 0.1, dtype=torch.bfloat16)
        literal = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.bfloat16)
        linear.weight.copy_(weight)
        computed = (weight * 0.3).to(torch.bfloat16)
    assert torch.equal(shadow.of(table), (torch.arange(4).double() * 0.1).bfloat16().double())
    assert torch.equal(shadow.of(filled), filled.double())
    assert torch.equal(shadow.of(literal), literal.double())
    assert torch.equal(shadow.of(linear.weight), weight.bfloat16().double())
    assert away(shadow.of(computed), weight.double() * 0.3) < EXACT


def test_numbers_in_the_code_are_known_to_fp64() -> None:
    shadow = Shadow()
    with shadow, torch.inference_mode():
        made = (
            torch.tensor([0.1, 0.2]),
            torch.full((2,), 0.1),
            torch.ones(2) * 0.1,
            torch.ones(2).new_tensor([0.1, 0.2]),
        )
        table = torch.linspace(0, 1, 7, dtype=torch.float64).float() * 0.1
    for x, wanted in zip(made, ([0.1, 0.2], [0.1, 0.1], [0.1, 0.1], [0.1, 0.2]), strict=True):
        assert torch.equal(shadow.of(x), torch.tensor(wanted, dtype=torch.float64))
    assert away(shadow.of(table), torch.linspace(0, 1, 7, dtype=torch.float64) * 0.1) < EXACT


def test_a_tensor_made_of_tensors_of_one_element_is_followed() -> None:
    given, shadow = drawn(3), Shadow(lanes=1)
    shadow.give([given])
    with shadow, torch.inference_mode():
        ratio = given[0] / 3
        made = torch.tensor([[ratio, 0.1], [1, given[1]]]) * 0.1
    exact = given.double()
    wanted = torch.stack([exact[0] / 3, exact.new_tensor(0.1), exact.new_tensor(1.0), exact[1]]).view(2, 2) * 0.1
    assert away(shadow.of(made), wanted) < EXACT
    assert 0 < away(shadow.of(made, 1), wanted) < 1e-6
    assert shadow.lost(made) is None


def test_an_epsilon_that_depends_on_the_dtype_stays() -> None:
    given, shadow = drawn(2, 8) * 1e-4, Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        normed = functional.rms_norm(x, (8,))
        finite = torch.nan_to_num(x / 0)
    assert away(shadow.of(normed), functional.rms_norm(given.double() * 0.3, (8,), eps=2**-23)) < EXACT
    assert torch.equal(shadow.of(finite).abs(), torch.full((2, 8), torch.finfo(torch.float32).max, dtype=torch.float64))


def test_draws_are_their_own_shadow() -> None:
    shadow = Shadow()
    with shadow, torch.inference_mode():
        noise = torch.randn(3, 3)
        written = torch.empty(3, 3).normal_()
        mixed = (noise * 0.1).uniform_()
    for x in (noise, written, mixed):
        assert torch.equal(shadow.of(x), x.double())
        assert shadow.lost(x) is None


def test_what_came_from_nowhere_is_listed_and_followed() -> None:
    given, shadow = drawn(3, 3), Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        outside = torch.from_numpy(np.exp(x.numpy()))
        behind = x + outside
        ring = torch.zeros(2, 3, 3)
        ring[0] = behind
        before = x * x
        again = torch.zeros(3, 3).copy_(behind).copy_(x)
    assert [reason.partition(" ")[0] for reason in shadow.foreign] == ["numpy", "add"]
    assert shadow.lost(behind) is not None
    assert shadow.lost(ring) is not None
    assert shadow.lost(before) is None
    assert shadow.lost(again) is None


def test_what_the_caller_knows_is_not_from_nowhere() -> None:
    table, shadow = np.linspace(0, 1, 9, dtype=np.float32), Shadow(given=lambda x: x.numel() == 9)
    with shadow, torch.inference_mode():
        out = torch.from_numpy(table) * 0.1
    assert shadow.lost(out) is None
    assert not shadow.foreign


@torch.library.custom_op("waypoint_parity_tests::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    """A kernel that knows fp32 alone."""
    if x.dtype is not torch.float32:
        raise RuntimeError("expected fp32")
    return x / 2


def test_an_operation_below_fp64_is_listed_and_followed() -> None:
    given, shadow = drawn(3, 3), Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        out = halved(given * 0.3) + 1
    assert ["halved" in reason and "expected fp32" in reason for reason in shadow.below] == [True]
    assert "halved" in str(shadow.lost(out))


def test_a_stand_in_takes_the_place_of_a_kernel() -> None:
    given = drawn(3, 3)
    shadow = Shadow(stand_ins={"waypoint_parity_tests::halved": lambda func, args, *rest: args[0] / 2})
    shadow.give([given])
    with shadow, torch.inference_mode():
        out = halved(given * 0.3)
    assert away(shadow.of(out), given.double() * 0.15) < EXACT
    assert shadow.lost(out) is None
    assert not shadow.below


@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_flex_attention_is_followed() -> None:
    given = drawn(1, 2, 16, 8)
    shadow = Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        out = flex_attention(x, x, x)
    exact = shadow.of(x)
    assert away(shadow.of(out), functional.scaled_dot_product_attention(exact, exact, exact)) < EXACT
    assert shadow.lost(out) is None


def test_bits_written_over_a_value_leave_no_shadow() -> None:
    given, shadow = drawn(4), Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        x.view(torch.int32).bitwise_and_(-65536)
        behind = x * 2
        resized = (given * 0.3).resize_(8)
    assert torch.equal(shadow.of(x), x.double())
    assert shadow.lost(behind) is not None
    assert shadow.lost(resized) is not None


def test_a_built_model_has_no_second_copy_of_its_weights() -> None:
    state = {"0.weight": drawn(64, 64), "1.weight": drawn(64, 64, seed=1)}
    shadow = Shadow()
    shadow.give(state.values())
    with shadow, torch.no_grad():
        model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
        model.load_state_dict(state)
        merged = torch.cat([model[0].weight, model[1].weight]).to(torch.bfloat16)
    shadow.settle()
    assert [shadow.bytes, shadow.lost(merged)] == [0, None]


def test_it_can_be_left_and_entered_again() -> None:
    given, shadow = drawn(4), Shadow()
    shadow.give([given])
    with shadow:
        x = given * 0.3
    outside = x * 0.3
    with shadow:
        y = x * 0.3
        z = outside * 1
    assert away(shadow.of(y), given.double() * 0.3 * 0.3) < EXACT
    assert shadow.lost(z) is not None


def test_autocast_and_gradients_do_not_matter() -> None:
    given, shadow = drawn(4, 4), Shadow()
    weight = nn.Parameter(drawn(4, 4, seed=1))
    shadow.give([given, weight])
    with shadow, torch.autocast("cpu", torch.bfloat16):
        out = functional.linear(given * 0.3, weight)
    assert out.dtype is torch.bfloat16
    assert out.requires_grad
    # Autocast rounds a weight on purpose; what it makes of activations is rounding.
    assert (
        away(shadow.of(out).detach(), functional.linear(given.double() * 0.3, weight.detach().bfloat16().double()))
        < EXACT
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_lanes_go_to_a_neighbour(dtype: torch.dtype) -> None:
    given, shadow = drawn(100, 50, dtype=dtype), Shadow(lanes=4)
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        exact = torch.cat([given * 2, given.flip(0)])
    unit = torch.finfo(dtype).eps
    for lane in range(1, 5):
        moved = (shadow.of(x, lane) - shadow.of(x)).abs() / shadow.of(x).abs()
        assert float(moved.max()) <= unit
        assert unit / 8 < float(moved.mean()) < unit / 2
        assert torch.equal(shadow.of(x, lane).to(dtype).double(), shadow.of(x, lane))
        assert torch.equal(shadow.of(exact, lane), shadow.of(exact))
    assert not torch.equal(shadow.of(x, 1), shadow.of(x, 2))


def test_lanes_of_a_sum_run_its_own_kernel() -> None:
    given, shadow = drawn(8, 512), Shadow(lanes=4)
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        out = x @ x.mT
    spread = [away(shadow.of(out, lane), shadow.of(out)) for lane in range(1, 5)]
    # More than the last rounding alone, as little as a sum of 512 makes.
    assert all(6e-8 < each < 1e-6 for each in spread)


def test_a_write_through_a_conjugate_reaches_what_it_shows() -> None:
    given, shadow = drawn(4, 6), Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        whole = torch.complex(x, x * 0.7)
        whole.conj().imag.mul_(0.3)
        whole.conj().add_(torch.complex(x, x))
    exact = given.double() * 0.3
    wanted = torch.complex(exact, exact * 0.7)
    wanted.conj().imag.mul_(0.3)
    wanted.conj().add_(torch.complex(exact, exact))
    assert away(shadow.of(torch.view_as_real(whole)), torch.view_as_real(wanted)) < EXACT


# Of whole numbers alone: the default dtype is that of the result.
FRACTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mul": lambda whole: whole * 0.1,
    "div": lambda whole: whole / 7,
    "pow": lambda whole: whole**0.3,
    "negative-pow": lambda whole: 10000.0 ** (-whole),
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "where": lambda whole: torch.where(whole > 2, 0.1, 0.7),
    "of-flags": lambda whole: (whole > 2) * 0.1,
    "add-of-flags": lambda whole: (whole > 2) + 0.1,
    "mixed": lambda whole: (whole > 2) * (whole / 3),
    "cast": lambda whole: whole.to(torch.get_default_dtype()) / 3,
    "linear": lambda whole: torch.arange(0, 12, 2) / 12 + 0.1,
}


@pytest.mark.parametrize("row", FRACTIONS)
def test_what_is_made_of_whole_numbers_is_not_rounded(row: str) -> None:
    shadow = Shadow()
    with shadow, torch.inference_mode():
        out = FRACTIONS[row](torch.arange(6))
    torch.set_default_dtype(torch.float64)
    try:
        wanted = FRACTIONS[row](torch.arange(6))
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.dtype is torch.float32
    assert away(shadow.of(out), wanted) < EXACT


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize(
    "draw",
    [
        functional.dropout,
        lambda x: functional.dropout2d(x[None]),
        lambda x: functional.alpha_dropout(x, training=True),
        lambda x: functional.dropout(x * 1, inplace=True),
        lambda x: functional.rrelu(x, training=True),
        lambda x: torch.normal(x, 0.1),
        lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    ],
)
def test_a_draw_about_what_was_computed_is_drawn_once_and_lost_where_it_is_not_followed(
    draw: Callable[[Tensor], Tensor], grad: Callable[[], torch.inference_mode]
) -> None:
    given, shadow = drawn(4, 8, 8), Shadow(lanes=1)
    shadow.give([given])
    torch.manual_seed(0)
    with grad():
        plain = draw(given * 0.3), torch.randn(3)
    torch.manual_seed(0)
    with shadow, grad():
        followed = draw(given * 0.3), torch.randn(3)
    assert all(map(torch.equal, plain, followed))
    # Without inference mode some are a product with a mask, which can be followed.
    by_mask = grad is torch.no_grad and not torch.equal(shadow.of(followed[0]), followed[0].double())
    assert by_mask or shadow.lost(followed[0]) is not None
    assert shadow.lost(followed[1]) is None


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad])
def test_a_dropout_that_is_switched_off_is_followed(grad: Callable[[], torch.inference_mode]) -> None:
    given, shadow = drawn(4, 8), Shadow()
    shadow.give([given])
    with shadow, grad():
        x = given * 0.3
        out = functional.alpha_dropout(functional.dropout(x, training=False), training=False) * 1
    assert away(shadow.of(out), given.double() * 0.3) < EXACT
    assert shadow.lost(out) is None


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize(
    "through",
    [
        lambda x: torch.sparse.mm(x.relu().to_sparse(), x.mT),
        lambda x: (x.relu().to_sparse() * 0.3).to_dense(),
        lambda x: x.relu().to_sparse_csr() @ x.mT,
        lambda x: (torch.nested.nested_tensor([x[0], x[1, :3]], layout=torch.jagged) * 0.3).values() * 2,
    ],
)
def test_what_has_no_strides_leaves_no_shadow(through: Callable[[Tensor], Tensor]) -> None:
    given, shadow = drawn(6, 8), Shadow(lanes=1)
    shadow.give([given])
    with torch.inference_mode():
        plain = through(given * 0.3)
    with shadow, torch.inference_mode():
        out = through(given * 0.3)
    assert torch.equal(out, plain)
    assert shadow.lost(out) is not None


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[1, 2].item(),
        lambda x: x[0].tolist(),
        lambda x: float(x[0, 0]),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
    ],
)
def test_numbers_that_are_read_of_what_was_computed_are_listed(read: Callable[[Tensor], object]) -> None:
    given, shadow = drawn(4, 6), Shadow()
    shadow.give([given])
    with shadow, torch.inference_mode():
        x = given * 0.3
        read(given)
        read(torch.full((4, 4), 0.5))
        assert not shadow.foreign
        read(x)
        with _disable_current_modes():
            read(x * 2)
    assert sum(shadow.foreign.values()) == 1
    assert next(iter(shadow.foreign)).endswith("that were computed")


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad])
def test_a_number_that_is_put_in_places_is_known(grad: Callable[[], torch.inference_mode]) -> None:
    given, shadow = drawn(4, 6), Shadow(lanes=1)
    shadow.give([given])
    with shadow, grad():
        x = given * 0.3
        x[given > 0] = 0.1
        x[torch.tensor([0, 2]), 1] = -0.7
        x[3] = 0.3
    wanted = given.double() * 0.3
    wanted[given > 0] = 0.1
    wanted[torch.tensor([0, 2]), 1] = -0.7
    wanted[3] = 0.3
    assert away(shadow.of(x), wanted) < EXACT
    assert shadow.lost(x) is None
    assert not shadow.foreign


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_heads_are_followed(causal: bool, grad: Callable[[], torch.inference_mode]) -> None:
    given, shadow = drawn(1, 4, 6, 8), Shadow()
    shadow.give([given])
    with shadow, grad():
        x = given * 0.3
        out = functional.scaled_dot_product_attention(x, x[:, :2], x[:, :2], is_causal=causal, enable_gqa=True)
    exact = given.double() * 0.3
    wanted = functional.scaled_dot_product_attention(
        exact, exact[:, :2], exact[:, :2], is_causal=causal, enable_gqa=True
    )
    assert away(shadow.of(out), wanted) < EXACT
    assert not shadow.below
