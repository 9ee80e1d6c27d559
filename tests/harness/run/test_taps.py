"""Taps as they record, as they patch, and on sites that show several tensors at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.harness.observations import FAMILY, Seen
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Pass, Site
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Observer, Taps, decoded_pictures, recording
from waypoint_parity.reference.eager.adapter import EagerAdapter

SEVEN = torch.tensor([7.0])


class Shown:
    """An observer that keeps what it is shown, and gives what it is told to at the sites of these names."""

    def __init__(self, **given: Callable[[Tensor], Tensor]) -> None:
        self.values: dict[Key, Tensor] = {}
        self._given = given

    def __call__(self, seen: Observation) -> Tensor | None:
        self.values[seen.key] = seen.tensor.clone()
        given = self._given.get(seen.key.site)
        return None if given is None else given(seen.tensor)

    def at(self, site: str) -> list[Tensor]:
        return [value for key, value in self.values.items() if key.site == site]


@pytest.fixture
def layer() -> nn.Linear:
    return nn.Linear(3, 2)


def test_an_observation_has_the_place_of_the_pass_that_was_begun(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen) as taps:
        taps.begin(4, Pass("denoise", 2, 0.25))
        y = layer(x)
    assert seen.keys == [Key(4, "denoise", 2, "latent")]
    assert seen.observations[0].sigma == 0.25
    assert seen.observations[0].tensor.equal(y)


def test_complex_numbers_are_shown_and_replaced_as_pairs() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.rfft(x)

    module, shown = Spectrum(), Shown(spectrum=lambda pairs: pairs * torch.tensor([1.0, 3.0]))
    with Taps({"spectrum": Site(module)}, shown) as taps:
        x = torch.randn(1, 8)
        y = module(x)
    right = torch.fft.rfft(x)
    assert shown.at("spectrum")[0].equal(torch.view_as_real(right))
    assert y.equal(torch.complex(right.real, 3 * right.imag))
    assert not taps.refused


def test_repeats_are_counted_within_a_pass(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen) as taps:
        taps.begin(0, Pass("denoise", 0))
        layer(layer(x).repeat(1, 2)[:, :3])
        taps.begin(0, Pass("denoise", 1))
        layer(x)
    assert [(key.step, key.call) for key in seen.keys] == [(0, 0), (0, 1), (1, 0)]


def test_a_pass_ends_when_the_next_begins(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen) as taps:
        for step in range(3):
            taps.begin(0, Pass("denoise", step))
            layer(x)
    assert seen.ends == [0, 1, 2]


def test_a_layout_turns_what_is_seen_and_leaves_what_is_computed(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer, layout=lambda output, inputs: output.flip(-1))}, seen):
        y = layer(x)
    assert seen.observations[0].tensor.equal(y.flip(-1))
    assert y.equal(layer(x))


def test_a_layout_may_pick_a_tensor_out_of_any_output() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, -x

    seen, pair, x = Seen(), Pair(), torch.randn(2)
    with recording({"latent": Site(pair, layout=lambda output, inputs: output[1])}, seen):
        pair(x)
    assert seen.observations[0].tensor.equal(-x)


def test_one_module_can_be_two_sites(layer: nn.Linear) -> None:
    seen = Seen()
    with recording({"latent": Site(layer), "velocity": Site(layer)}, seen):
        layer(torch.randn(1, 3))
    assert [key.site for key in seen.keys] == ["latent", "velocity"]


def test_nothing_is_watched_before_and_after(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    taps = recording({"latent": Site(layer)}, seen)
    layer(x)
    with taps:
        pass
    layer(x)
    assert not seen.observations
    assert not layer._forward_hooks


def test_the_hooks_are_gone_after_an_error(layer: nn.Linear) -> None:
    with pytest.raises(RuntimeError), recording({"latent": Site(layer)}, Seen()):
        layer(torch.randn(1, 4))
    assert not layer._forward_hooks


def test_no_hook_is_set_where_nothing_is_wanted(layer: nn.Linear) -> None:
    other = nn.Linear(3, 2)
    selection = Selection(sites=("latent",))
    with recording({"latent": Site(layer), "velocity": Site(other)}, Seen(), selection):
        assert layer._forward_hooks
        assert not other._forward_hooks


def test_only_what_is_selected_is_handed_on(layer: nn.Linear) -> None:
    seen, x = Seen(), torch.randn(1, 3)
    with recording({"latent": Site(layer)}, seen, Selection(units=(1,), steps=(2,))) as taps:
        for unit in range(3):
            for step in range(3):
                taps.begin(unit, Pass("denoise", step))
                layer(x)
    assert seen.keys == [Key(1, "denoise", 2, "latent")]


@pytest.fixture(scope="module")
def eager(tiny: Checkpoint, fp32_on_cpu: Numerics) -> EagerAdapter:
    return EagerAdapter(tiny, fp32_on_cpu)


@pytest.fixture
def drive(tiny: Checkpoint, tiny_scenario: Scenario) -> Callable[..., None]:
    """A session of an adapter with an observer at its sites."""

    def driven(adapter: Adapter, observer: Observer) -> None:
        with Taps(adapter.sites(), observer) as taps:
            run(adapter, tiny_scenario, tiny, taps)

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
            assert torch.equal(value, tiny_scenario["noise"][key.unit])
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
    assert torch.equal(plain.values[attention._replace(unit=0)], blind.values[attention._replace(unit=0)])
    assert not torch.allclose(plain.values[attention], blind.values[attention])


def test_a_site_is_patched_through_its_way_back() -> None:
    site = Site(nn.Identity(), layout=lambda own, inputs: own + 1, restore=lambda official, own: official - 1)
    shown = Shown(site=lambda value: SEVEN)
    with Taps({"site": site}, shown):
        assert site.module(torch.tensor([3.0])) == 6
    assert shown.at("site") == [torch.tensor([4.0])]


def test_a_replacement_has_the_dtype_that_the_implementation_computes_in() -> None:
    site = Site(nn.Identity())
    with Taps({"site": site}, lambda seen: SEVEN):
        assert site.module(torch.zeros(1, dtype=torch.bfloat16)).dtype is torch.bfloat16
    assert site.replacement(SEVEN, torch.zeros(1, dtype=torch.float64)).dtype is torch.float64


def test_a_site_without_a_way_back_is_shown_and_left() -> None:
    fixed = Site(nn.Identity(), layout=lambda own, inputs: own + 1)
    shown = Shown(site=lambda value: SEVEN)
    assert not fixed.is_patchable
    assert Site(nn.Identity()).is_patchable
    with Taps({"site": fixed}, shown) as taps:
        assert fixed.module(torch.tensor([3.0])) == 3
    assert shown.at("site") == [torch.tensor([4.0])]
    assert taps.refused == {"site"}


def test_a_site_that_does_not_show_what_was_put_in_its_place_is_refused() -> None:
    positive = Site(nn.Identity(), layout=lambda own, inputs: own, restore=lambda official, own: official.clamp(min=0))
    with Taps({"site": positive}, Shown(site=doubled)) as taps:
        assert positive.module(torch.tensor([3.0])) == 6
        assert taps.refused == set()
        assert positive.module(torch.tensor([-3.0])) == 0
    assert taps.refused == {"site"}


def test_hooks_attached_before_see_the_own_value_and_hooks_attached_after_the_replacement() -> None:
    module, seen = nn.Identity(), list[tuple[str, float]]()

    def watch(when: str, hooked: nn.Module, inputs: object, output: Tensor) -> None:
        seen.append((when, float(output)))

    module.register_forward_hook(partial(watch, "before"))
    with Taps({"site": Site(module)}, Shown(site=lambda value: SEVEN)):
        module.register_forward_hook(partial(watch, "after"))
        module(torch.tensor([3.0]))
    assert seen == [("before", 3.0), ("after", 7.0)]


def test_all_sites_of_a_module_show_what_it_returned_and_the_last_replacement_stays() -> None:
    module = nn.Identity()
    sites = {
        "one": Site(module),
        "two": Site(module, layout=lambda own, inputs: 10 * own, restore=lambda official, own: official / 10),
        "three": Site(module, layout=lambda own, inputs: -own),
    }
    shown = Shown(one=doubled, two=doubled)
    with Taps(sites, shown):
        assert module(torch.tensor([3.0])) == 6
    assert [shown.at(name) for name in sites] == [[3.0], [30.0], [-3.0]]
    with Taps(sites, Shown(one=doubled)):
        assert module(torch.tensor([3.0])) == 6


def test_repeats_of_a_site_within_a_pass_are_counted() -> None:
    module, shown = nn.Identity(), Shown()
    with Taps({"site": Site(module)}, shown) as taps:
        taps.begin(1, Pass("denoise", 2))
        module(SEVEN), module(SEVEN)
        taps.begin(1, Pass("cache"))
        module(SEVEN)
    first = Key(1, "denoise", 2, "site")
    assert [*shown.values] == [first, first._replace(call=1), Key(1, "cache", 0, "site")]


def test_nothing_is_shown_or_replaced_once_the_context_is_closed_be_it_by_an_error() -> None:
    module, shown = nn.Identity(), Shown(site=lambda value: SEVEN)
    taps = Taps({"site": Site(module)}, shown)
    assert module(torch.tensor([3.0])) == 3

    def fail() -> None:
        with taps:
            assert module(torch.tensor([3.0])) == 7
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fail()
    assert module(torch.tensor([3.0])) == 3
    assert len(shown.values) == 1
    assert not module._forward_hooks


# Several tensors at once: the branches of a step, and several calls of one.
BOTH = Pass("denoise", 3, branches=("cond", "uncond"))


def halves(output: Tensor, inputs: Any) -> dict[str, Tensor]:
    """The branches of a module that evaluates both in one batch."""
    return dict(zip(BOTH.branches, output.chunk(2), strict=True))


def test_a_layout_tells_the_branches_of_one_call_apart() -> None:
    seen, module = Seen(), nn.Identity()
    with recording({"velocity": Site(module, halves)}, seen) as taps:
        taps.begin(2, BOTH)
        module(torch.tensor([1.0, 2.0]))
    assert seen.keys == [Key(2, "denoise", 3, "velocity", branch) for branch in BOTH.branches]
    assert [observation.tensor for observation in seen.observations] == [1.0, 2.0]


def test_one_tensor_of_a_call_with_several_branches_belongs_to_all_of_them() -> None:
    seen, module = Seen(), nn.Identity()
    with recording({"input.sigma": Site(module)}, seen) as taps:
        taps.begin(2, BOTH)
        module(SEVEN)
    assert seen.keys == [Key(2, "denoise", 3, "input.sigma")]


def test_branches_that_are_evaluated_one_after_the_other_are_shown_as_those_of_one_call() -> None:
    alone, together, module = Seen(), Seen(), nn.Identity()
    with recording({"velocity": Site(module)}, alone) as taps:
        for branch, value in zip(BOTH.branches, (1.0, 2.0), strict=True):
            taps.begin(2, BOTH._replace(branches=(branch,)))
            module(torch.tensor([value]))
    with recording({"velocity": Site(module, halves)}, together) as taps:
        taps.begin(2, BOTH)
        module(torch.tensor([1.0, 2.0]))
    assert alone.observations == together.observations


def test_repeats_are_counted_in_every_branch_and_over_all_passes_of_a_step() -> None:
    seen, module = Seen(), nn.Identity()
    with recording({"velocity": Site(module)}, seen) as taps:
        for branch in ("cond", "uncond", "cond"):
            taps.begin(2, BOTH._replace(branches=(branch,)))
            module(SEVEN)
        taps.begin(2, Pass("denoise", 4, branches=("cond",)))
        module(SEVEN)
    found = [(key.step, key.branch, key.call) for key in seen.keys]
    assert found == [(3, "cond", 0), (3, "uncond", 0), (3, "cond", 1), (4, "cond", 0)]


def test_a_list_is_shown_call_by_call() -> None:
    seen, module = Seen(), nn.Identity()
    with recording({"frame": Site(module, layout=lambda output, inputs: list(output))}, seen) as taps:
        taps.begin(1, Pass("decode"))
        module(torch.tensor([1.0, 2.0]))
        module(torch.tensor([3.0]))
    assert [(key.call, float(each.tensor)) for key, each in zip(seen.keys, seen.observations, strict=True)] == [
        (0, 1.0),
        (1, 2.0),
        (2, 3.0),
    ]


def test_one_branch_of_a_call_is_replaced_and_the_other_goes_on() -> None:
    site = Site(nn.Identity(), halves, restore=lambda official, own: torch.cat(list(official.values())))
    with Taps({"velocity": site}, lambda seen: SEVEN if seen.key.branch == "uncond" else None) as taps:
        taps.begin(0, BOTH)
        assert site.module(torch.tensor([1.0, 2.0])).tolist() == [1.0, 7.0]
    assert taps.refused == set()


def test_one_of_several_calls_is_replaced_and_the_others_go_on() -> None:
    site = Site(nn.Identity(), lambda own, inputs: own.unbind(), restore=lambda official, own: torch.stack(official))
    selected = Selection(sites=("frame",))
    with Taps({"frame": site}, lambda seen: -seen.tensor if seen.key.call == 1 else None, selection=selected) as taps:
        assert site.module(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.0, -2.0, 3.0]
    assert taps.refused == set()


def test_a_site_that_loses_a_branch_that_was_put_in_its_place_is_refused() -> None:
    site = Site(nn.Identity(), halves, restore=lambda official, own: official["cond"].repeat(2))
    with Taps({"velocity": site}, lambda seen: SEVEN if seen.key.branch == "uncond" else None) as taps:
        taps.begin(0, BOTH)
        site.module(torch.tensor([1.0, 2.0]))
    assert taps.refused == {"velocity"}


def test_a_layout_may_ask_for_what_the_module_was_given() -> None:
    seen, module = Seen(), nn.ReLU()
    with recording({"input.noise": Site(module, layout=lambda output, inputs: inputs[0])}, seen):
        module(torch.tensor([-1.0]))
    assert seen.observations[0].tensor == -1


def test_positions_that_do_not_count_are_shown_as_zero_and_stay_what_they_are() -> None:
    seen, module = Seen(), nn.Identity()
    real = torch.tensor([[True], [False]])
    sites = {"prompt": Site(module), "latent": Site(module)}
    with recording(sites, seen, counts=lambda key: real if key.site == "prompt" else None):
        passed = module(torch.ones(2, 3))
    shown = {observation.key.site: observation.tensor.tolist() for observation in seen.observations}
    assert shown == {"prompt": [[1.0] * 3, [0.0] * 3], "latent": [[1.0] * 3] * 2}
    assert passed.equal(torch.ones(2, 3))


def test_pictures_are_kept_one_by_one_however_many_a_site_shows(eager: EagerAdapter) -> None:
    """Of one call, of several, and of a call that shows several at once."""

    class Film(EagerAdapter):
        module = nn.Identity()

        def __init__(self) -> None:
            pass

        def sites(self) -> dict[str, Site]:
            return {"frame": Site(self.module), "latent": Site(self.module)}

    film = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 4, 5, 3)
    adapter = Film()
    with decoded_pictures(adapter, FAMILY) as pictures:
        adapter.module(film[0])
        adapter.module(film[1:])
    adapter.module(film[0])
    assert [int(picture.max()) for picture in pictures] == [0, 1, 2]
    assert all(picture.shape == (4, 5, 3) and picture.dtype == np.uint8 for picture in pictures)
