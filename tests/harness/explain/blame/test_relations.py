"""What relates the values that a site shows to those that it should show, told from the values alone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from waypoint_parity.harness.explain.blame.relations import Held, Values, relations
from waypoint_parity.harness.run.keys import Key

NOISE, BOUND = 1e-7, 1e-6
Changed = Callable[[Tensor], Tensor]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(changed: Changed, number: int = 3, shape: tuple[int, ...] = (1, 6, 8)) -> list[Values]:
    """Observations of a site whose values are `changed`, each with noise of its own."""
    found = []
    for step in range(number):
        right = drawn(step, *shape)
        shown = changed(right)
        shown = shown * (1 + NOISE * drawn(100 + step, *shown.shape))
        found.append(Values(Key(0, "denoise", step, "site"), shown, right, BOUND, {}, {}))
    return found


def statements(found: list[Held]) -> list[str]:
    return [held.statement for held in found]


def halves_exchanged(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([second, first], -1)


RIGHT_AND_SAID: dict[str, tuple[Changed, str]] = {
    "zero": (torch.zeros_like, "it is 0 everywhere"),
    "scaled": (lambda x: x / 8**0.5, "1/sqrt(8)"),
    "sign": (lambda x: -x, "sign is flipped"),
    "offset": (lambda x: x + 0.25, "0.25 is added"),
    "both": (lambda x: (x + 1) / 2, "plus 0.5"),
    "clamped": (lambda x: x.clamp(-0.5, 0.5), "clamped"),
    "halves": (halves_exchanged, "halves exchanged"),
    "reversed": (lambda x: x.flip(1), "axis 1 of [1, 6, 8] is in another order: reversed"),
    "pairs": (lambda x: x.unflatten(-1, (4, 2)).transpose(-1, -2).flatten(-2), "pairs taken apart"),
    "rolled": (lambda x: x.roll(3, -1), "in another order: 5, 6, 7, 0, 1, 2, 3, 4"),
    "read otherwise": (lambda x: x.transpose(1, 2).reshape(x.shape), "axes 1 and 2 of [1, 6, 8] are exchanged"),
    "silu again": (functional.silu, "silu is applied once more"),
    "lost bias": (lambda x: x + drawn(7, 8), "the same 8 numbers are added along axis 2"),
    "lost weight": (lambda x: x * drawn(7, 8), "multiplied with the same 8 numbers"),
    "moved alike": (lambda x: x + drawn(7, 6, 8), "the same values are added in every pass"),
    "signs": (lambda x: x * torch.tensor([1.0, 1, -1, 1, 1, -1, 1, 1]), "at 2, 5 of axis 2 of [1, 6, 8] alone"),
}


@pytest.mark.parametrize("name", RIGHT_AND_SAID)
def test_a_relation_is_found_in_the_values(name: str) -> None:
    changed, said = RIGHT_AND_SAID[name]
    found = relations(pairs(changed))
    assert any(said in statement for statement in statements(found)), found
    assert all(held.before > 0.02 and held.after < 2 * BOUND and held.of == 3 for held in found)


def test_what_is_right_has_none() -> None:
    assert relations(pairs(lambda x: x)) == []


def test_what_is_unlike_has_none() -> None:
    assert relations(pairs(lambda x: drawn(99, *x.shape))) == []


def test_what_holds_in_one_observation_and_not_in_another_is_none() -> None:
    scaled, moved = pairs(lambda x: 2 * x)[:2], pairs(lambda x: x.flip(1))[2:]
    assert relations([*scaled, *moved]) == []


def test_numbers_that_fit_one_observation_alone_say_nothing() -> None:
    """A bias of as many numbers as there are channels fits one token in any case."""
    assert relations(pairs(lambda x: x + drawn(7, 8), number=1)) == []
    assert relations(pairs(lambda x: drawn(int(1e3 * abs(x[0, 0, 0])), *x.shape), shape=(1, 1, 8))) == []


def test_an_order_that_has_a_name_is_found_in_a_single_row() -> None:
    (held,) = relations(pairs(lambda x: x.flip(-1), shape=(1, 1, 8)))
    assert held.statement == "axis 2 of [1, 1, 8] is in another order: reversed"


def test_what_a_missing_activation_leaves_is_right_once_it_is_applied() -> None:
    found = [replace(pair, right=functional.silu(pair.shown)) for pair in pairs(lambda x: x)]
    assert "silu is missing" in statements(relations(found))


def test_an_activation_of_another_kind_is_no_relation_of_outputs() -> None:
    """gelu(x) does not follow from silu(x) alone."""
    found = [
        replace(pair, right=functional.silu(pair.right), shown=functional.gelu(pair.right))
        for pair in pairs(lambda x: x)
    ]
    assert relations(found) == []


@pytest.mark.parametrize(
    ("times", "said"), [(-1.0, "missing"), (1.0, "added once more"), (-0.5, "-0.5 times other is added")]
)
def test_a_term_that_both_were_given_is_named(times: float, said: str) -> None:
    found = []
    for step, pair in enumerate(pairs(lambda x: x)):
        term = drawn(50 + step, *pair.right.shape)
        found.append(replace(pair, shown=pair.shown + times * term, read={"other": term}))
    assert any(said in statement and "other" in statement for statement in statements(relations(found)))


@pytest.mark.parametrize("which", ["the pass before", "the session's first pass"])
def test_a_value_of_another_pass_is_named(which: str) -> None:
    found = []
    for step, pair in enumerate(pairs(lambda x: x)):
        earlier = {name: drawn(50 + step + at, *pair.right.shape) for at, name in enumerate([which, "another pass"])}
        found.append(replace(pair, shown=earlier[which].clone(), others=earlier))
    assert statements(relations(found)) == [f"it is the value of {which}"]


def test_a_mixture_with_another_pass_is_named_with_its_weights() -> None:
    found = []
    for step, pair in enumerate(pairs(lambda x: x)):
        earlier = drawn(50 + step, *pair.right.shape)
        found.append(replace(pair, shown=0.75 * pair.right + 0.25 * earlier, others={"the pass before": earlier}))
    (statement,) = statements(relations(found))
    assert "0.75" in statement
    assert "0.25" in statement


def test_a_shift_is_found_whatever_comes_in_at_the_edge() -> None:
    def shifted(x: Tensor) -> Tensor:
        return torch.cat([drawn(5, 1, 1, 8), x[:, :-1]], 1)

    assert any("shifted by 1 along axis 1" in statement for statement in statements(relations(pairs(shifted))))


def test_of_an_axis_that_is_wrong_in_part_the_part_is_named() -> None:
    def third_channel(x: Tensor) -> Tensor:
        return torch.cat([x[..., :3], 2 * x[..., 3:4], x[..., 4:]], -1)

    (statement,) = statements(relations(pairs(third_channel)))
    assert statement.startswith("at 3 of axis 2 of [1, 6, 8] alone")
    assert "times 2" in statement


def test_where_nothing_else_holds_the_part_that_is_wrong_is_told() -> None:
    """Two tokens of six are others altogether, as where padding is not zeroed."""

    def padding(x: Tensor) -> Tensor:
        return torch.cat([x[:, :4], drawn(int(1e6 * abs(float(x[0, 0, 0]))), 1, 2, 8)], 1)

    (held,) = relations(pairs(padding))
    assert held.statement == "it is wrong at 4, 5 of axis 1 of [1, 6, 8] alone"
    assert held.before > 0.1
    assert held.after < BOUND


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_rounding_to_fewer_bits_is_named(dtype: torch.dtype) -> None:
    found = [replace(pair, shown=pair.right.to(dtype).double()) for pair in pairs(lambda x: x)]
    (statement,) = statements(relations(found))
    assert str(dtype).removeprefix("torch.") in statement


@pytest.mark.parametrize("shape", [(8,), (4, 2), (1, 1, 1, 16), (2, 3, 1, 2, 2)])
def test_values_of_any_shape_are_looked_at(shape: tuple[int, ...]) -> None:
    assert relations(pairs(lambda x: drawn(99, *x.shape), shape=shape)) == []
    assert any("sign is flipped" in statement for statement in statements(relations(pairs(lambda x: -x, shape=shape))))
    masks = [
        replace(pair, shown=torch.ones(shape).double(), right=(pair.right > 0.3).double())
        for pair in pairs(abs, shape=shape)
    ]
    assert statements(relations(masks)) == ["it is 1 everywhere"]


def test_what_is_not_finite_or_of_another_shape_has_none() -> None:
    some = pairs(lambda x: x)
    assert relations([replace(pair, shown=pair.shown / 0) for pair in some]) == []
    assert relations([replace(pair, shown=pair.shown[:, :2]) for pair in some]) == []
    assert relations([]) == []


def test_relations_that_hold_alike_all_stand() -> None:
    """Of two channels the order and the roll are one."""
    found = relations(pairs(lambda x: x.flip(-1), shape=(1, 6, 2)))
    assert len(found) >= 1


def cells_first(x: Tensor) -> Tensor:
    """What is stored as (C, 2, 2) read as (2, 2, C)."""
    celled = functional.pixel_unshuffle(x, 2).unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2)
    return functional.pixel_shuffle(celled, 2)


def columns_first(x: Tensor) -> Tensor:
    """Every cell with its rows and columns exchanged."""
    cells = x.unflatten(3, (4, 2)).unflatten(2, (3, 2))
    return cells.transpose(3, 5).flatten(4).flatten(2, 3)


CELLS: dict[str, tuple[Changed, str]] = {
    "cells first": (cells_first, "are read as (y, x, C)"),
    "columns first": (columns_first, "are read as (C, x, y)"),
}


@pytest.mark.parametrize("name", CELLS)
def test_the_order_of_channels_and_pixels_in_a_cell_is_found(name: str) -> None:
    changed, said = CELLS[name]
    found = relations(pairs(changed, shape=(1, 3, 6, 8)))
    assert any(said in statement for statement in statements(found)), found


def made_up(weights: Callable[[int], tuple[float, float]]) -> list[Values]:
    """Observations in which two of the values that were read are added, with weights that depend on the step."""
    found = []
    for step, pair in enumerate(pairs(lambda x: x)):
        read = {name: drawn(50 + 3 * step + place, 6, 8) for place, name in enumerate(("one", "other", "third"))}
        one, other = weights(step)
        found.append(replace(pair, shown=pair.shown + one * read["one"] + other * read["other"], read=read))
    return found


def test_what_two_read_values_make_up_is_found_with_other_weights_in_every_pass() -> None:
    (statement,) = statements(relations(made_up(lambda step: (0.5 + step, -1.0 - step))))
    assert "one and other" in statement


def test_what_a_sibling_shows_is_found() -> None:
    found = []
    for step, pair in enumerate(pairs(lambda x: x)):
        other = drawn(70 + step, 1, 6, 8)
        found.append(replace(pair, shown=other.clone(), others={"v_proj": other, "q_proj": drawn(80 + step, 1, 6, 8)}))
    (statement,) = statements(relations(found))
    assert "v_proj" in statement


LEVELS = (0.93, 0.75, 0.32)
SERIES: dict[str, tuple[Callable[[float], float], str]] = {
    "shifted": (lambda x: 3 * x / (1 + 2 * x), "shifted by 3"),
    "scaled": (lambda x: 1000 * x, "times 1000"),
    "turned round": (lambda x: 1 - x, "1 less the right one"),
}


@pytest.mark.parametrize("name", SERIES)
def test_one_number_in_every_pass_is_another_function_of_the_right_one(name: str) -> None:
    of, said = SERIES[name]
    found = []
    for step, level in enumerate(LEVELS):
        shown, right = torch.tensor([[of(level)]]), torch.tensor([[level]])
        found.append(Values(Key(0, "denoise", step, "input.sigma"), shown, right, 0.0, {}, {}))
    (statement,) = statements(relations(found))
    assert said in statement
    assert relations(found[:2]) == []
