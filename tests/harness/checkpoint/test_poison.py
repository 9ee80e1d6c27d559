import pytest
import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.loading import poisoned, unfilled


def settings() -> tuple[object, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        dict(vars(nn.init)),
    )


class Holder:
    """Stands for an adapter: whatever it is given is its attribute."""

    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)


def found(**attributes: object) -> list[str]:
    return [str(one) for one in unfilled(Holder(**attributes))]


def holding(tensor: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_buffer("value", tensor, persistent=False)
    return module


@pytest.mark.parametrize("before", [(False, False, True), (True, True, False), (True, False, True)])
def test_every_setting_is_as_it_was_also_after_a_failure(before: tuple[bool, bool, bool]) -> None:
    initially = settings()
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]
        expected = settings()
        with poisoned():
            assert settings() != expected
        assert settings() == expected
        with pytest.raises(KeyError), poisoned():
            raise KeyError
        assert settings() == expected
    finally:
        torch.use_deterministic_algorithms(initially[0] is True, warn_only=initially[1] is True)
        torch.utils.deterministic.fill_uninitialized_memory = initially[2]
    assert settings() == initially


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(3, 2),
        lambda: nn.Conv2d(2, 2, 3),
        lambda: nn.Embedding(4, 2),
        lambda: nn.LayerNorm(3),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3)),
    ],
    ids=["linear", "convolution", "embedding", "norm", "weight norm"],
)
def test_a_module_that_nobody_loads_holds_nothing_but_nan(build: type[nn.Module]) -> None:
    with poisoned():
        module = build()
    names = {name for name, _ in module.named_parameters()}
    assert {line.partition(" ")[0].removeprefix("module.") for line in found(module=module)} >= names
    module = build()
    assert found(module=module) == []


@pytest.mark.parametrize("assign", [False, True])
def test_a_loaded_module_is_filled(assign: bool) -> None:
    weights = nn.Linear(3, 2).state_dict()
    with poisoned():
        module = nn.Linear(3, 2)
        module.load_state_dict(weights, assign=assign)
    assert found(module=module) == []


@pytest.mark.parametrize(
    ("index", "where"),
    [
        ((slice(None), slice(None)), "all of it"),
        ((slice(4, 6), slice(None)), "rows 4..5 of 6"),
        ((slice(0, 6, 2), slice(None)), "rows 0..0, 2..2, 4..4 of 6"),
        ((slice(None), slice(2, 4)), "columns 2..3 of 4"),
        ((slice(1, 2), slice(3, 4)), "rows 1..1 of 6"),
        ((torch.arange(6), torch.tensor([0, 1, 2, 3, 0, 1])), "6 of 24 values"),
    ],
)
def test_the_part_that_nobody_filled_is_named(index: tuple[object, ...], where: str) -> None:
    tensor = torch.zeros(6, 4)
    tensor[index] = torch.nan
    assert found(module=holding(tensor)) == [f"module.value [6, 4]: {where}"]


def test_many_short_ranges_end_in_dots() -> None:
    tensor = torch.zeros(12)
    tensor[::2] = torch.nan
    assert found(module=holding(tensor)) == ["module.value [12]: rows 0..0, 2..2, 4..4, 6..6, ... of 12"]


def test_the_third_axis_is_named_by_its_number() -> None:
    tensor = torch.zeros(2, 2, 5)
    tensor[..., 1:3] = torch.nan
    assert found(module=holding(tensor)) == ["module.value [2, 2, 5]: axis 2, indices 1..2 of 5"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.int32, torch.int64]
)
def test_memory_of_every_wide_type_is_found(dtype: torch.dtype) -> None:
    with poisoned():
        module = holding(torch.empty(3, dtype=dtype))
    assert found(module=module) == ["module.value [3]: all of it"]


def test_parameters_buffers_and_plain_attributes_are_found_wherever_the_modules_lie() -> None:
    with poisoned():
        module = nn.Linear(2, 2)
        module.register_buffer("table", torch.empty(1), persistent=False)
        module.plain = torch.empty(1)  # type: ignore[assignment]
    names = [line.partition(" ")[0] for line in found(engine=Holder(parts={"a": [nn.Identity(), module]}))]
    assert sorted(names) == [f"engine.parts.a.1.{name}" for name in ("bias", "plain", "table", "weight")]


def test_a_tensor_that_two_modules_share_is_reported_once() -> None:
    with poisoned():
        module = nn.Linear(2, 2, bias=False)
    twin = nn.Linear(2, 2, bias=False)
    twin.weight = module.weight
    assert len(found(first=module, second=twin, third=module)) == 1


def test_an_adapter_may_offer_its_modules_itself() -> None:
    with poisoned():
        module = nn.Linear(2, 2, bias=False)
    hidden = Holder(modules=lambda: {"hidden": module})
    assert [str(one) for one in unfilled(hidden)] == ["hidden.weight [2, 2]: all of it"]


def test_an_adapter_may_be_a_module_and_may_refer_to_itself() -> None:
    with poisoned():
        module = nn.Linear(2, 2, bias=False)
    assert [str(one) for one in unfilled(module)] == ["weight [2, 2]: all of it"]
    circle = Holder(module=module)
    vars(circle)["me"] = circle
    assert len(unfilled(circle)) == 1
