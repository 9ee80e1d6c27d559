from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Patch, Patcher, is_patchable, replacement
from waypoint_parity.reference.eager.adapter import EagerAdapter

SEVEN = torch.tensor([7.0])


class Shown:
    """A patch that keeps what it is shown, and gives what it is told to at the sites of these names."""

    def __init__(self, **given: Callable[[Tensor], Tensor]) -> None:
        self.values: dict[Key, Tensor] = {}
        self._given = given

    def __call__(self, key: Key, value: Tensor) -> Tensor | None:
        self.values[key] = value.clone()
        return self._given[key.site](value) if key.site in self._given else None

    def at(self, site: str) -> list[Tensor]:
        return [value for key, value in self.values.items() if key.site == site]


@pytest.fixture(scope="module")
def eager(tiny: Checkpoint, fp32_on_cpu: Numerics) -> EagerAdapter:
    return EagerAdapter(tiny, fp32_on_cpu)


@pytest.fixture
def drive(tiny: Checkpoint, tiny_scenario: Scenario) -> Callable[..., None]:
    """A session of an adapter with a patch on its sites."""

    def driven(adapter: EagerAdapter | CandidateAdapter, patch: Patch) -> None:
        with Patcher(adapter.sites(), patch) as patcher:
            run(adapter, tiny_scenario, tiny, patcher)

    return driven


def doubled(value: Tensor) -> Tensor:
    return 2 * value


def test_a_value_that_is_not_replaced_is_only_shown(
    eager: EagerAdapter, drive: Callable[..., None], tiny_scenario: Scenario
) -> None:
    first, again = Shown(), Shown()
    drive(eager, first)
    drive(eager, again)
    keys = list(first.values)
    assert keys[0] == Key(0, "prompt", 0, "input.prompt_emb")
    assert keys[-1] == Key(1, "decode", 0, "frame")
    assert all(torch.equal(first.values[key], again.values[key]) for key in keys)
    assert torch.equal(first.values[Key(1, "denoise", 0, "input.noise")], tiny_scenario["noise"][1])


def test_a_replacement_is_what_the_implementation_goes_on_with(
    eager: EagerAdapter, drive: Callable[..., None], tiny_scenario: Scenario
) -> None:
    stopped = Shown(velocity=torch.zeros_like)
    drive(eager, stopped)
    # The latent moves by nothing, up to the picture.
    for key, value in stopped.values.items():
        if key.site == "latent":
            assert torch.equal(value, tiny_scenario["noise"][key.frame])
    assert any(bool(value.any()) for value in stopped.at("velocity"))


def test_a_replacement_is_given_in_the_official_layout_and_goes_on_in_the_implementation_s_own(
    tiny: Checkpoint, fp32_on_cpu: Numerics, drive: Callable[..., None]
) -> None:
    candidate = CandidateAdapter(tiny, fp32_on_cpu)
    visible = "kv_cache.layers.1.visible"
    assert candidate.sites()[visible].restore is not None
    plain, blind = Shown(), Shown(**{visible: lambda mask: mask.logical_and(torch.arange(len(mask)) >= len(mask) - 4)})
    drive(candidate, plain)
    drive(candidate, blind)
    attention = Key(1, "denoise", 0, "transformer.blocks.1.attn")
    assert int(plain.values[attention._replace(site=visible)].sum()) == 8
    assert torch.equal(plain.values[attention._replace(frame=0)], blind.values[attention._replace(frame=0)])
    assert not torch.allclose(plain.values[attention], blind.values[attention])


def test_a_site_is_patched_through_its_way_back() -> None:
    site = Site(nn.Identity(), layout=lambda own: own + 1, restore=lambda official, own: official - 1)
    shown = Shown(site=lambda value: SEVEN)
    with Patcher({"site": site}, shown):
        assert site.module(torch.tensor([3.0])) == 6
    assert shown.at("site") == [torch.tensor([4.0])]


def test_a_replacement_has_the_dtype_that_the_implementation_computes_in() -> None:
    site = Site(nn.Identity())
    with Patcher({"site": site}, lambda key, value: SEVEN):
        assert site.module(torch.zeros(1, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert replacement(site, SEVEN, torch.zeros(1, dtype=torch.float64)).dtype is torch.float64


def test_a_site_without_a_way_back_is_shown_and_left() -> None:
    fixed = Site(nn.Identity(), layout=lambda own: own + 1)
    shown = Shown(site=lambda value: SEVEN)
    assert not is_patchable(fixed)
    assert is_patchable(Site(nn.Identity()))
    with Patcher({"site": fixed}, shown) as patcher:
        assert fixed.module(torch.tensor([3.0])) == 3
    assert shown.at("site") == [torch.tensor([4.0])]
    assert patcher.refused == {"site"}


def test_a_site_that_does_not_show_what_was_put_in_its_place_is_refused() -> None:
    positive = Site(nn.Identity(), layout=lambda own: own, restore=lambda official, own: official.clamp(min=0))
    with Patcher({"site": positive}, Shown(site=doubled)) as patcher:
        assert positive.module(torch.tensor([3.0])) == 6
        assert patcher.refused == set()
        assert positive.module(torch.tensor([-3.0])) == 0
    assert patcher.refused == {"site"}


def test_hooks_attached_before_see_the_own_value_and_hooks_attached_after_the_replacement() -> None:
    module, seen = nn.Identity(), list[tuple[str, float]]()

    def watch(when: str, hooked: nn.Module, inputs: object, output: Tensor) -> None:
        seen.append((when, float(output)))

    module.register_forward_hook(partial(watch, "before"))
    with Patcher({"site": Site(module)}, Shown(site=lambda value: SEVEN)):
        module.register_forward_hook(partial(watch, "after"))
        module(torch.tensor([3.0]))
    assert seen == [("before", 3.0), ("after", 7.0)]


def test_all_sites_of_a_module_show_what_it_returned_and_the_last_replacement_stays() -> None:
    module = nn.Identity()
    sites = {
        "one": Site(module),
        "two": Site(module, layout=lambda own: 10 * own, restore=lambda official, own: official / 10),
        "three": Site(module, layout=lambda own: -own),
    }
    shown = Shown(one=doubled, two=doubled)
    with Patcher(sites, shown):
        assert module(torch.tensor([3.0])) == 6
    assert [shown.at(name) for name in sites] == [[3.0], [30.0], [-3.0]]
    with Patcher(sites, Shown(one=doubled)):
        assert module(torch.tensor([3.0])) == 6


def test_repeats_of_a_site_within_a_pass_are_counted() -> None:
    module, shown = nn.Identity(), Shown()
    with Patcher({"site": Site(module)}, shown) as patcher:
        patcher.begin(1, Pass("denoise", 2))
        module(SEVEN), module(SEVEN)
        patcher.begin(1, Pass("cache"))
        module(SEVEN)
    passes = [(1, "denoise", 2, "site", 0), (1, "denoise", 2, "site", 1), (1, "cache", 0, "site", 0)]
    assert [*shown.values] == passes


def test_nothing_is_shown_or_replaced_once_the_context_is_closed_be_it_by_an_error() -> None:
    module, shown = nn.Identity(), Shown(site=lambda value: SEVEN)
    patcher = Patcher({"site": Site(module)}, shown)
    assert module(torch.tensor([3.0])) == 3

    def fail() -> None:
        with patcher:
            assert module(torch.tensor([3.0])) == 7
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert module(torch.tensor([3.0])) == 3
    assert len(shown.values) == 1
    assert not module._forward_hooks
