"""The exact shadow on real models: is the mathematics the same, and is each site as precise as it may be.

Every change here is far below what two right implementations differ by. Each is named by the site that it is made at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.conftest import DEVICE
from waypoint_parity.candidate import conditioning
from waypoint_parity.candidate import session as candidate_session
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.candidate.rope import OrthoRoPE, Rotation
from waypoint_parity.candidate.session import Schedule
from waypoint_parity.fixtures.faults import stages
from waypoint_parity.fixtures.faults.conditioning import bf16_conditioner
from waypoint_parity.fixtures.faults.waypoint_15 import exact_conditioner, exact_rotation
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.exact.shadowed import Shadowed, load_shadowed, with_exact
from waypoint_parity.harness.compare.tensor_error import exact_distance
from waypoint_parity.harness.judge.judgement import SAME_MATHEMATICS
from waypoint_parity.harness.judge.precision import LANES, PrecisionRun, fed_run
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import DTYPES, Adapter, Numerics, Site
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import Key, is_input
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import counting, run
from waypoint_parity.harness.run.sites import kind_of
from waypoint_parity.harness.run.taps import Observation, Taps

FIXTURES = Path(__file__).parents[2] / "fixtures"
# The third is a small Waypoint 1.5, seeded with a picture.
PLACES = ("golden", "world", "second")
FILES = {
    "golden": (FIXTURES / "golden" / "base", FIXTURES / "golden" / "base" / "scenario.safetensors"),
    "world": (FIXTURES / "world" / "checkpoint", FIXTURES / "scenarios" / "left.safetensors"),
}
EXACT = 1e-12
BLOCK = "transformer.blocks"

Change = Callable[[Any], None]


class _FoundError(Exception):
    """There is no need to go on."""


@dataclass(frozen=True)
class Session:
    """A checkpoint, the first units of a scenario, and a dtype."""

    checkpoint: Checkpoint
    scenario: Scenario
    numerics: Numerics

    @classmethod
    def of(cls, place: str, dtype: str, units: int) -> "Session":
        if place in FILES:
            folder, file = FILES[place]
            checkpoint = open_checkpoint(folder)
            scenario = checkpoint.family.first_units(read_scenario(file), units)
        else:
            checkpoint = stages.second(Path(mkdtemp()))
            scenario = stages.session_of(units, image=True)(checkpoint)
        return cls(checkpoint, scenario, Numerics(DTYPES[dtype], DEVICE))

    def shadowed(self, implementation: str, change: Change | None = None, *, lanes: int = 0) -> Shadowed:
        """An implementation under its exact shadow, with one `change`, which the shadow follows too."""
        found = load_shadowed(implementation, self.checkpoint, self.numerics, lanes=lanes)
        found.expect(self.scenario)
        if change is not None:
            with found.shadow, torch.no_grad():
                change(found.adapter)
        return found

    def plain(self, implementation: str = "candidate", change: Change | None = None) -> Adapter:
        """An implementation without a shadow, with one `change`."""
        found = registry.load(implementation, self.checkpoint, self.numerics)
        if change is not None:
            change(found)
        return found

    def watched(self, of: Shadowed | Adapter, observe: Callable[[Observation], None]) -> None:
        """Run it, and hand on every observation, with its exact value where there is a shadow."""
        shadowed = of if isinstance(of, Shadowed) else None

        def see(seen: Observation) -> None:
            observe(seen if shadowed is None else with_exact(seen, shadowed.shadow))

        adapter = of if shadowed is None else shadowed.adapter
        with Taps(adapter.sites(), see, counts=counting(self.scenario, self.checkpoint)) as taps:
            if shadowed is None:
                run(adapter, self.scenario, self.checkpoint, taps)
            else:
                with shadowed.shadow:
                    run(adapter, self.scenario, self.checkpoint, taps)

    def seen(self, of: Shadowed | Adapter) -> dict[Key, Observation]:
        """Everything it shows."""
        seen: dict[Key, Observation] = {}
        self.watched(of, lambda each: seen.update({each.key: each.kept()}))
        return seen

    def digests(self, of: Shadowed | Adapter) -> dict[Key, str]:
        """The bits of everything that it shows."""
        digests: dict[Key, str] = {}
        self.watched(of, lambda each: digests.update({each.key: fast_digest(each.tensor.cpu())}))
        return digests

    def first_apart(self, change: Change, expected: Mapping[Key, Observation]) -> Key | None:
        """Where the exact values of a candidate with this `change` first part from the `expected` ones."""
        found: list[Key] = []

        def compare(seen: Observation) -> None:
            distance = exact_distance(seen, expected[seen.key])
            if distance is not None and distance > SAME_MATHEMATICS:
                found.append(seen.key)
                raise _FoundError

        try:
            self.watched(self.shadowed("candidate", change), compare)
        except _FoundError:
            return found[0]
        return None


# What the tests of one checkpoint and dtype share; another one's is let go.
@lru_cache(maxsize=1)
def session(place: str, dtype: str, units: int = 1) -> Session:
    return Session.of(place, dtype, units)


@lru_cache(maxsize=1)
def expected(place: str, dtype: str, units: int = 1) -> dict[Key, Observation]:
    """What the reference shows, with exact values."""
    here = session(place, dtype, units)
    return here.seen(here.shadowed("eager"))


@lru_cache(maxsize=1)
def disturbed(place: str, dtype: str) -> Shadowed:
    """The reference with disturbed lanes."""
    return session(place, dtype).shadowed("eager", lanes=LANES)


def fed(place: str, dtype: str, candidate: Adapter, units: int = 1) -> PrecisionRun:
    """What a run with the reference fed shows; only the last unit is measured."""
    here = session(place, dtype, units)
    return fed_run(disturbed(place, dtype), candidate, here.checkpoint, here.scenario, [units - 1])


def wrong(found: PrecisionRun) -> dict[str, float]:
    """The sites that are wrong by themselves, with the largest error over its bound."""
    worst: dict[str, float] = {}
    for key, excess in found.excess.items():
        if excess > 1:
            worst[key.site] = max(excess, worst.get(key.site, 0.0))
    return worst


def output(site: str, changed: Callable[[Tensor], Tensor]) -> Change:
    """A change of what a module returns that is a site as it is."""

    def change(adapter: Any) -> None:
        adapter.sites()[site].module.register_forward_hook(lambda module, inputs, shown: changed(shown))

    return change


def times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


def all_of(*changes: Change) -> Change:
    def change(adapter: Any) -> None:
        for each in changes:
            each(adapter)

    return change


class DifferencesRounded(Schedule):
    """Rounds the differences of noise levels, in the place of the levels."""

    def __init__(self, sigmas: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(sigmas, dtype, device)
        self.deltas = sigmas.diff().to(device, dtype).unbind()


class TablesOfFp32(OrthoRoPE):
    """Turns by cosines and sines that have not passed through the model's dtype."""

    def forward(self, timestamp: Tensor, dtype: torch.dtype) -> Rotation:
        return super().forward(timestamp, torch.float32)


# By mistake: how it is made, and where it is seen first. What is rounded on purpose is a part of a model.
ROUNDINGS: dict[str, tuple[Callable[[pytest.MonkeyPatch, Any], None], str]] = {
    "differences-of-sigmas": (
        lambda patch, adapter: patch.setattr(candidate_session, "Schedule", DifferencesRounded),
        "u0/denoise0/latent",
    ),
    "exact-rope-tables": (
        lambda patch, adapter: patch.setattr(adapter.engine.model.rope, "__class__", TablesOfFp32),
        f"u0/image0/{BLOCK}.0.attn.q_rope",
    ),
    "conditioner-in-bf16": (lambda patch, adapter: bf16_conditioner(adapter), "u0/image0/denoise_step_emb"),
}
# Of Waypoint 1.5, whose frequencies are rounded. At sigma 0, in the pass of the image, a noise level has no phase.
ROUNDINGS_15: dict[str, tuple[Change, str]] = {
    "exact-conditioner": (exact_conditioner, "u0/denoise0/denoise_step_emb"),
    "exact-frequencies": (exact_rotation, "u0/image0/transformer.rope_angles"),
}


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestMathematics:
    @pytest.mark.sampled(2)
    def test_exact_values_agree_at_every_site(self, place: str, dtype: str) -> None:
        here = session(place, dtype)
        theirs, ours = expected(place, dtype), here.seen(here.shadowed("candidate"))
        both = [key for key in theirs if key in ours and theirs[key].exact is not None and not is_input(key.site)]
        distances = {key: exact_distance(ours[key], theirs[key]) for key in both}
        worst = max(both, key=lambda key: distances[key] or 0.0)
        print(f"{place} {dtype}: {len(both)} exact values, the furthest apart {distances[worst]:.1e} at {worst}")
        assert len(both) > 200
        assert [str(key) for key in both if ours[key].lost or theirs[key].lost] == []
        assert {str(key): far for key, far in distances.items() if far is None or far > EXACT} == {}

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("implementation", ["eager", "candidate"])
    def test_a_shadow_changes_no_bit(self, implementation: str, place: str, dtype: str) -> None:
        here = session(place, dtype)
        followed = here.shadowed(implementation)
        plain = here.digests(here.plain(implementation))
        assert here.digests(followed) == plain
        assert len(plain) > 200
        assert not followed.shadow.below
        assert not followed.shadow.foreign

    @pytest.mark.sampled(1)
    def test_every_kind_of_site_is_named_by_a_tenth_of_a_millionth(self, dtype: str) -> None:
        """On the world, whose session has a seed image: it shows every kind of site."""
        theirs = expected("world", dtype)
        shown = {key.site for key, seen in theirs.items() if seen.exact is not None and not is_input(key.site)}
        sites = session("world", dtype).plain().sites()
        kinds = {kind_of(site): site for site in sites if site in shown and sites[site].layout is None}
        assert len(kinds) > 20
        found = {
            site: session("world", dtype).first_apart(output(site, times(1 + 1e-7)), theirs) for site in kinds.values()
        }
        assert {site: str(key) for site, key in found.items() if key is None or key.site != site} == {}

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("mistake", ROUNDINGS)
    def test_a_rounding_that_the_model_does_not_have_is_named_in_bf16(
        self, mistake: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Within the tolerances of bf16 all of them are lost: they are off by 1e-3."""
        theirs = expected("world", "bf16")
        change, first = ROUNDINGS[mistake]
        found = session("world", "bf16").first_apart(partial(change, monkeypatch), theirs)
        assert found is not None
        assert str(found) == first

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize("mistake", ROUNDINGS_15)
    def test_a_rounding_that_waypoint_15_does_not_have_is_named_in_bf16(self, mistake: str) -> None:
        change, first = ROUNDINGS_15[mistake]
        found = session("second", "bf16").first_apart(change, expected("second", "bf16"))
        assert found is not None
        assert str(found) == first

    def test_an_epsilon_of_1e_5_is_named_in_bf16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where a modulated norm is first read."""
        theirs = expected("golden", "bf16")
        monkeypatch.setattr(conditioning, "unit_rms", lambda x: functional.rms_norm(x, x.shape[-1:], eps=1e-5))
        found = session("golden", "bf16").first_apart(lambda adapter: None, theirs)
        assert found is not None
        assert str(found) == f"u0/denoise0/{BLOCK}.0.attn.q_proj"

    def test_a_frequency_in_time_is_named_in_bf16(self) -> None:
        """In the second frame: at time 0 nothing turns. A tenth of it changes no bit in bf16 before time 3."""

        def change(adapter: Any) -> None:
            rope = adapter.engine.model.rope
            rope.temporal = rope.temporal * 1.001

        found = session("golden", "bf16", 2).first_apart(change, expected("golden", "bf16", 2))
        assert found is not None
        assert str(found) == f"u1/denoise0/{BLOCK}.0.attn.q_rope"


def attention_in_bf16(layer: int) -> Change:
    def change(adapter: Any) -> None:
        attention = adapter.engine.model.layers[layer].attn
        attend = attention.attend
        attention.attend = lambda *given: attend(*(x.bfloat16() for x in given)).float()

    return change


class TestPrecision:
    @pytest.mark.sampled(1)
    def test_a_right_candidate_is_far_below_every_bound(self, place: str, dtype: str) -> None:
        found = fed(place, dtype, session(place, dtype).plain())
        worst = max(found.excess, key=lambda key: found.excess[key])
        gain = max(found.gains, key=lambda each: each.excess)
        print(f"{place} {dtype}: {len(found.measured)}, worst {found.excess[worst]:.2f} at {worst}, {gain.excess:.2f}")
        assert found.refused == []
        assert found.alone == []
        assert found.precision.unjudged == []
        assert found.excess[worst] < 0.5
        assert gain.excess < 0.5

    @pytest.mark.sampled(1)
    def test_a_hundred_thousandth_is_wrong_where_it_is_made_and_nowhere_else(self, place: str) -> None:
        """All at once: what one changes reaches no other."""
        decoder = ("decoder.4", "decoder.8") if place == "second" else ("decoder.conv_in", "decoder.blocks.1")
        sites = (
            f"{BLOCK}.0.attn.v_proj",
            f"{BLOCK}.1.attn.q_proj",
            f"{BLOCK}.1.attn",
            f"{BLOCK}.1.mlp",
            f"{BLOCK}.2.attn.k_proj",
            "velocity",
            *decoder,
        )
        change = all_of(*(output(site, times(1 + 1e-5)) for site in sites))
        found = wrong(fed(place, "fp32", session(place, "fp32").plain(change=change)))
        print(found)
        assert found.keys() == {*sites}
        assert min(found.values()) > 2

    @pytest.mark.sampled(1)
    def test_one_level_of_one_pixel_is_wrong(self, place: str) -> None:
        """What a picture is made of is shown: nothing of its levels is rounding."""

        def off(picture: Tensor) -> Tensor:
            changed = picture.clone()
            changed.view(-1)[777] ^= 1
            return changed

        found = wrong(fed(place, "fp32", session(place, "fp32").plain(change=output("frame", off))))
        assert found.keys() == {"frame"}

    def test_four_thousandths_before_a_rounding_to_bf16_are_wrong(self) -> None:
        def change(adapter: Any) -> None:
            first, second = adapter.engine.model.layers[:2]
            for linear in (first.attn.out_proj, second.mlp[-1]):
                linear.register_forward_hook(louder)

        def louder(module: nn.Linear, inputs: tuple[Tensor], shown: Tensor) -> Tensor:
            return (functional.linear(inputs[0].float(), module.weight.float()) * 1.004).bfloat16()

        # Half a unit of bf16. Four lanes tell what a gain may be to a factor of two: not every frame shows both.
        found = wrong(fed("golden", "bf16", session("golden", "bf16", 2).plain(change=change), 2))
        print(found)
        assert found.keys() == {f"{BLOCK}.0.attn", f"{BLOCK}.1.mlp"}

    def test_less_precision_is_wrong_and_the_mathematics_the_same(self) -> None:
        change = all_of(output(f"{BLOCK}.0.mlp", lambda x: x.bfloat16().float()), attention_in_bf16(1))
        here = session("golden", "fp32")
        assert here.first_apart(change, expected("golden", "fp32")) is None
        found = wrong(fed("golden", "fp32", here.plain(change=change)))
        print(found)
        assert found.keys() == {f"{BLOCK}.0.mlp", f"{BLOCK}.1.attn"}
        assert min(found.values()) > 100

    @pytest.mark.slow
    def test_a_site_that_is_not_shown_is_judged_by_the_next_ones(self) -> None:
        """The values of block 0 are read by its attention and its ring."""
        hidden = f"{BLOCK}.0.attn.v_proj"

        class Fewer(CandidateAdapter):
            def sites(self) -> Mapping[str, Site]:
                return {name: site for name, site in super().sites().items() if name != hidden}

        here = session("golden", "fp32")
        adapter = Fewer(here.checkpoint, here.numerics)
        right = fed("golden", "fp32", adapter)
        assert wrong(right) == {}
        assert hidden not in {one.key.site for one in right.measured}
        CandidateAdapter.sites(adapter)[hidden].module.register_forward_hook(lambda module, inputs, v: v * (1 + 1e-5))
        found = wrong(fed("golden", "fp32", adapter))
        print(found)
        assert found.keys() == {f"{BLOCK}.0.attn", "kv_cache.layers.0.kv"}


class TestAPortWithoutTorch:
    """In two frames: the second one is the first that has a past. Nothing in it is followed; it is only watched."""

    def found(self, port: type[Any]) -> PrecisionRun:
        here = session("golden", "fp32", 2)
        return fed("golden", "fp32", port(here.checkpoint, here.numerics), 2)

    def test_it_is_right(self, ports: Any) -> None:
        found = self.found(ports.JaxPort)
        print(max((excess, str(key)) for key, excess in found.excess.items()))
        assert wrong(found) == {}
        assert max(found.excess.values()) < 0.5

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize(
        ("mistake", "first", "ends"),
        [
            ("RotatesPairsApart", f"{BLOCK}.0.attn.q_rope", ("_rope",)),
            pytest.param(
                "ResizesAsJax",
                "decoder.blocks.0",
                (*(f"s.{stage}" for stage in range(9)), "decoder.conv_out"),
                marks=pytest.mark.slow,
            ),
            # Its ring is empty where a past should be in sight.
            pytest.param("Forgets", "kv_cache.layers.0.visible", (".visible",), marks=pytest.mark.slow),
        ],
    )
    def test_a_mistake_is_named_by_its_own_sites(
        self, mistake: str, first: str, ends: tuple[str, ...], ports: Any
    ) -> None:
        found = self.found(getattr(ports, mistake))
        sites = wrong(found)
        print(sites, found.alone[:3])
        assert next(iter(sites)) == first
        assert [site for site in sites if not site.endswith(ends)] == []
