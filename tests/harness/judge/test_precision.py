"""Precision: bounds and gains by numbers, and runs with the reference fed on the tiny model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.harness.implementations import Fewer
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import Shadowed, load_shadowed
from waypoint_parity.harness.judge import precision
from waypoint_parity.harness.judge.judgement import FACTOR, FLOOR, PRECISIONS
from waypoint_parity.harness.judge.precision import (
    GAIN_FACTOR,
    GAIN_FLOOR,
    GAIN_OBSERVATIONS,
    LANES,
    SIEVE_LANES,
    OwnError,
    PrecisionRun,
    fed_run,
    gains,
    precision_run,
)
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Site
from waypoint_parity.harness.run.keys import Key, is_input
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys

SITE = "transformer.blocks.0.mlp"
KEY = Key(0, "denoise", 0, SITE)


def own(step: int = 0, unit: int = 0, site: str = SITE, **values: Any) -> OwnError:
    """One observation in fp32."""
    return OwnError(Key(unit, "denoise", step, site), values.pop("dtype", torch.float32), **values)


def run_of(*measured: OwnError) -> PrecisionRun:
    return PrecisionRun([*measured], [0], 2, [], [])


class TestABound:
    def test_it_is_a_multiple_of_the_spread(self) -> None:
        assert own(spread=1e-5).bound == FACTOR * 1e-5
        assert own(spread=1e-5, error=3e-5).excess == pytest.approx(0.5)

    def test_two_units_of_fp32_are_no_error_in_any_dtype(self) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            for spread in (None, 0.0, 1e-12):
                assert own(spread=spread, dtype=dtype).bound == FACTOR * FLOOR

    def test_no_error_as_small_as_the_references_is_one_of_the_candidate(self) -> None:
        one = own(spread=1e-7, reference=1e-3, error=9e-4)
        assert one.bound == 1e-3
        assert one.excess < 1
        assert own(spread=1e-7, reference=1e-3, error=1.1e-3).excess > 1

    def test_what_has_no_distance_is_infinitely_wrong(self) -> None:
        assert own(error=math.inf, spread=1e-7).excess == math.inf

    def test_whole_numbers_are_right_or_wrong(self) -> None:
        assert own(equal=True, dtype=torch.bool).excess == 0
        assert own(equal=False, dtype=torch.int64).excess == math.inf


def series(
    mean: float, *, count: int = GAIN_OBSERVATIONS, lanes: tuple[float, ...] = (1e-8, -1e-8), **values: Any
) -> list[OwnError]:
    return [own(step, spread=1e-7, gain=mean, lane_gains=lanes, **values) for step in range(count)]


class TestAGain:
    def test_it_is_the_mean_over_a_series(self) -> None:
        own_gains = [own(step, spread=1e-7, gain=gain, lane_gains=(0.0,)) for step, gain in enumerate((1, 2, 3, 6))]
        (found,) = gains(own_gains)
        assert (found.site, found.phase, found.branch, found.observations) == (SITE, "denoise", "", 4)
        assert found.gain == 3

    def test_its_bound_is_what_the_lanes_show(self) -> None:
        (found,) = gains(series(1e-5, lanes=(3e-6, -3e-6)))
        assert found.bound == pytest.approx(GAIN_FACTOR[torch.float32] * 3e-6)
        # Lanes that cancel from one observation to the next: half of a single one.
        apart = [
            own(step, spread=1e-7, lane_gains=((-1) ** step * 3e-6, (-1) ** step * -3e-6))
            for step in range(GAIN_OBSERVATIONS)
        ]
        assert gains(apart)[0].bound == pytest.approx(GAIN_FACTOR[torch.float32] * 1.5e-6)

    def test_its_bound_has_a_floor_and_depends_on_the_dtype(self) -> None:
        for dtype, factor in GAIN_FACTOR.items():
            assert gains(series(0.0, lanes=(0.0, 0.0), dtype=dtype))[0].bound == factor * GAIN_FLOOR

    def test_fewer_observations_do_not_tell_it(self) -> None:
        assert gains(series(1e-3, count=GAIN_OBSERVATIONS - 1)) == []
        assert len(gains(series(1e-3))) == 1

    def test_without_lanes_there_is_none(self) -> None:
        assert gains(replace(one, spread=None, lane_gains=()) for one in series(1e-3)) == []

    def test_a_site_of_two_phases_has_two(self) -> None:
        other = [replace(one, key=one.key._replace(phase="cache")) for one in series(0.0)]
        assert [(gain.phase, gain.gain) for gain in gains([*series(1e-3), *other])] == [("denoise", 1e-3), ("cache", 0)]

    def test_it_is_wrong_where_no_single_error_is(self) -> None:
        """A gain of a ten-thousandth of the noise's size is nothing in a norm."""
        found = run_of(*series(1e-5, error=2e-7), own(site="velocity", error=1e-7, spread=1e-7))
        assert {key.site for key, excess in found.excess.items() if excess > 1} == {SITE}
        assert len(found.precision.gains) == 1
        assert found.precision.gains[0].startswith(f"{SITE} in denoise is 1.00001 times what it should be")

    def test_only_those_that_have_it_are_wrong(self) -> None:
        mixed = [replace(one, gain=8e-5 if one.key.step == 2 else 0.0) for one in series(0.0)]
        found = run_of(*mixed)
        assert [key.step for key, excess in found.excess.items() if excess > 1] == [2]


class TestInShort:
    def test_the_worst_is_named(self) -> None:
        found = run_of(own(0, error=6e-7, spread=1e-6), own(1, error=3e-6, spread=1e-6, reference=1e-6)).precision
        assert (found.observations, found.lanes, found.units) == (2, 2, [0])
        assert found.worst == pytest.approx(0.5)
        assert found.at == f"u0/denoise1/{SITE}"
        assert found.reference == pytest.approx(1 / 6)

    def test_what_was_lost_is_not_judged_and_said(self) -> None:
        found = run_of(own(0, error=1.0, spread=1e-7, lost="add was given [3] from nowhere"))
        assert found.excess == {}
        assert found.precision.observations == 0
        assert found.precision.worst is None
        assert "from nowhere" in found.precision.unjudged[0]

    def test_an_infinite_error_is_no_number(self) -> None:
        found = run_of(own(error=math.inf, spread=1e-7))
        assert found.excess[KEY] == math.inf
        assert found.precision.worst is None
        assert found.precision.at == str(KEY)


class TestAnError:
    @pytest.mark.parametrize(
        ("x", "exact", "wanted"),
        [
            ([1.5, 0.0], [1.0, 0.0], (0.5, 0.5)),
            ([1.0, 1.0], [1.0, -1.0], (math.sqrt(2), -1.0)),
            ([0.0, 0.0], [0.0, 0.0], (0.0, 0.0)),
            ([0.1, 0.0], [0.0, 0.0], (math.inf, 0.0)),
            ([math.nan, 1.0], [1.0, 1.0], (math.inf, 0.0)),
            ([math.inf, 1.0], [1.0, 1.0], (math.inf, 0.0)),
            ([math.inf, 1.0, 1.0], [math.inf, 1.0, 1.0], (0.0, 0.0)),
            ([-math.inf, 1.0], [math.inf, 1.0], (math.inf, 0.0)),
            ([1.0, 1.0], [math.inf, 1.0], (math.inf, 0.0)),
            ([math.nan, 1.5], [math.nan, 1.0], (0.5, 0.5)),
            ([0.5, 1.0], [math.nan, 1.0], (math.inf, 0.0)),
            ([math.inf], [math.nan], (math.inf, 0.0)),
            ([], [], (0.0, 0.0)),
        ],
    )
    def test_it_is_a_distance_and_a_gain(self, x: list[float], exact: list[float], wanted: tuple[float, float]) -> None:
        found = precision._error(*(torch.tensor(each, dtype=torch.float64) for each in (x, exact)))
        assert found == pytest.approx(wanted)


@pytest.fixture(scope="module")
def disturbed(tiny: Checkpoint, fp32_on_cpu: Numerics) -> Shadowed:
    return load_shadowed("eager", tiny, fp32_on_cpu, lanes=LANES)


def changed(tiny: Checkpoint, numerics: Numerics, site: str, change: Callable[[Tensor], Tensor]) -> Adapter:
    """A candidate with one change of what a module returns."""
    adapter = CandidateAdapter(tiny, numerics)
    adapter.sites()[site].module.register_forward_hook(lambda module, inputs, shown: change(shown))
    return adapter


def wrong(found: PrecisionRun) -> set[str]:
    return {key.site for key, excess in found.excess.items() if excess > 1}


class TestAFedRun:
    def test_a_right_candidate_has_no_error_of_its_own(
        self, disturbed: Shadowed, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        found = fed_run(disturbed, CandidateAdapter(tiny, fp32_on_cpu), tiny, tiny_scenario, [0, 1])
        assert max(found.excess.values()) < 0.5
        assert (found.alone, found.refused, found.units, found.lanes) == ([], [], [0, 1], LANES)
        assert found.precision.unjudged == []
        # In both units, everything but inputs; what an implementation may do without is shown by both here.
        optional = set(disturbed.adapter.sites())
        wanted = {key for key in expected_keys(tiny_scenario, tiny, optional=optional) if not is_input(key.site)}
        assert {one.key for one in found.measured} == wanted
        assert all(one.spread for one in found.measured if one.equal is None and one.error)

    def test_only_the_units_asked_for_are_measured_and_whole_numbers_in_all(
        self, disturbed: Shadowed, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        found = fed_run(disturbed, CandidateAdapter(tiny, fp32_on_cpu), tiny, tiny_scenario, [1])
        assert found.units == [1]
        assert {one.key.unit for one in found.measured if one.equal is None} == {1}
        assert {one.key.unit for one in found.measured if one.equal is not None} == {0, 1}
        assert found.precision.observations == sum(one.equal is None for one in found.measured)

    def test_a_change_is_wrong_at_its_own_site_alone(
        self, disturbed: Shadowed, tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        adapter = changed(tiny, fp32_on_cpu, SITE, lambda x: x * 1.0001)
        assert wrong(fed_run(disturbed, adapter, tiny, short, [0])) == {SITE}

    @pytest.mark.slow
    def test_what_is_not_finite_is_wrong(
        self, disturbed: Shadowed, tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        adapter = changed(tiny, fp32_on_cpu, "velocity", lambda x: x / 0)
        found = fed_run(disturbed, adapter, tiny, short, [0])
        assert found.excess[Key(0, "denoise", 0, "velocity")] == math.inf

    def test_whole_numbers_are_equal_or_wrong(
        self, disturbed: Shadowed, tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        adapter = changed(tiny, fp32_on_cpu, "frame", lambda x: 255 - x)
        found = fed_run(disturbed, adapter, tiny, short, [0])
        assert wrong(found) == {"frame"}

    def test_the_session_goes_on_with_the_candidates_values(
        self, disturbed: Shadowed, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        """Though the first velocity is far off, all that follows from it is right."""
        adapter = changed(tiny, fp32_on_cpu, "velocity", lambda x: 3 * x + 1)
        assert wrong(fed_run(disturbed, adapter, tiny, tiny_scenario, [0, 1])) == {"velocity"}

    @pytest.mark.slow
    def test_sites_that_one_side_lacks_are_not_measured(
        self, disturbed: Shadowed, tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        found = fed_run(disturbed, Fewer(tiny, fp32_on_cpu), tiny, short, [0])
        assert not any(one.key.site.startswith("decoder.") for one in found.measured)
        assert Key(0, "decode", 0, "frame") in {one.key for one in found.measured}
        assert wrong(found) == set()

    @pytest.mark.slow
    def test_another_shape_is_shown_by_the_candidate_alone(
        self, disturbed: Shadowed, tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        class Flat(CandidateAdapter):
            def sites(self) -> Mapping[str, Site]:
                sites = dict(super().sites())
                return sites | {SITE: replace(sites[SITE], layout=lambda shown, inputs: shown.flatten())}

        found = fed_run(disturbed, Flat(tiny, fp32_on_cpu), tiny, short, [0])
        assert {key.site for key in found.alone} == {SITE}
        assert SITE not in {one.key.site for one in found.measured}
        assert wrong(found) == set()

    def test_a_site_of_the_reference_that_takes_no_value_is_said(
        self, tiny: Checkpoint, short: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        reference = load_shadowed("candidate", tiny, fp32_on_cpu, lanes=LANES)
        found = fed_run(reference, CandidateAdapter(tiny, fp32_on_cpu), tiny, short, [0])
        assert found.refused == [f"kv_cache.layers.{layer}.written" for layer in range(3)]
        assert found.precision.unjudged == [f"{name} of the reference takes no value" for name in found.refused]
        assert wrong(found) == set()


class TestOtherUnits:
    """Units outside the sample are sieved without lanes, where all are asked for; what is in doubt is measured anew."""

    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
        """(disturbed lanes, units) of every run."""
        found: list[tuple[int, list[int]]] = []
        original = precision.fed_run

        def noted(
            reference: Shadowed, candidate: Any, checkpoint: Any, scenario: Any, units: Any, lanes: int, *more: Any
        ) -> PrecisionRun:
            found.append((lanes, sorted(units)))
            return original(reference, candidate, checkpoint, scenario, units, lanes, *more)

        monkeypatch.setattr(precision, "fed_run", noted)
        return found

    def test_only_the_sample_is_measured_unless_all_are_asked_for(
        self,
        disturbed: Shadowed,
        tiny: Checkpoint,
        tiny_scenario: Scenario,
        fp32_on_cpu: Numerics,
        runs: list[tuple[int, list[int]]],
    ) -> None:
        adapter = CandidateAdapter(tiny, fp32_on_cpu)
        found = precision_run(disturbed, adapter, tiny, tiny_scenario, [1], everywhere=False)
        assert runs == [(SIEVE_LANES, [1])]
        assert found.units == [1]

    def test_what_is_right_is_sieved_without_lanes(
        self,
        disturbed: Shadowed,
        tiny: Checkpoint,
        tiny_scenario: Scenario,
        fp32_on_cpu: Numerics,
        runs: list[tuple[int, list[int]]],
    ) -> None:
        adapter = CandidateAdapter(tiny, fp32_on_cpu)
        found = precision_run(disturbed, adapter, tiny, tiny_scenario, [1], everywhere=True)
        assert runs == [(SIEVE_LANES, [1]), (0, [0])]
        assert found.units == [0, 1]
        assert {one.key.unit for one in found.measured if one.equal is None} == {0, 1}
        # Of the sample with lanes, of the rest with what the sample showed.
        assert all(bool(one.lane_gains) is (one.key.unit == 1) for one in found.measured if one.equal is None)
        assert wrong(found) == set()
        assert len({one.key for one in found.measured}) == len(found.measured)

    def test_what_is_suspect_is_measured_with_lanes(
        self,
        disturbed: Shadowed,
        tiny: Checkpoint,
        tiny_scenario: Scenario,
        fp32_on_cpu: Numerics,
        runs: list[tuple[int, list[int]]],
    ) -> None:
        """Only the unit outside the sample is wrong."""
        adapter = CandidateAdapter(tiny, fp32_on_cpu)

        def louder(module: object, inputs: object, shown: Tensor) -> Tensor:
            return shown * (1 + 1e-3 * (adapter.running.clock == 0))

        adapter.sites()[SITE].module.register_forward_hook(louder)
        found = precision_run(disturbed, adapter, tiny, tiny_scenario, [1], everywhere=True)
        assert runs == [(SIEVE_LANES, [1]), (0, [0]), (SIEVE_LANES, [0]), (LANES, [0])]
        assert {(key.unit, key.site) for key, excess in found.excess.items() if excess > 1} == {(0, SITE)}
        assert all(one.lane_gains for one in found.measured if one.equal is None)

    def test_a_gain_that_no_single_error_shows_is_suspect(
        self,
        disturbed: Shadowed,
        tiny: Checkpoint,
        tiny_scenario: Scenario,
        fp32_on_cpu: Numerics,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        asked: list[list[int]] = []

        def fed(
            reference: object,
            candidate: object,
            checkpoint: object,
            scenario: object,
            units: Any,
            lanes: int,
            *rest: object,
        ) -> PrecisionRun:
            """Unit 0 alone has a gain."""
            asked.append(sorted(units))
            lane_gains = (1e-8, -1e-8) if lanes else ()
            spread = 1e-7 if lanes else None
            measured = [
                own(step, unit, error=1e-7, spread=spread, gain=0.0 if unit else 2e-6, lane_gains=lane_gains)
                for unit in units
                for step in range(GAIN_OBSERVATIONS)
            ]
            return PrecisionRun(measured, sorted(units), lanes, [], [])

        monkeypatch.setattr(precision, "fed_run", fed)
        found = precision_run(disturbed, CandidateAdapter(tiny, fp32_on_cpu), tiny, tiny_scenario, [1], everywhere=True)
        assert asked == [[1], [0], [0], [0]]
        assert {one.key.unit for one in found.measured if one.lane_gains} == {0, 1}


class TestOnPurpose:
    """What a port may cost on purpose is stated, and is then no error."""

    def test_an_error_of_a_rounding_to_the_stated_precision_is_none(self) -> None:
        error = own(error=3e-3, spread=1e-7)
        assert error.excess > 1
        assert replace(error, least=PRECISIONS["bf16"]).excess < 1
        assert replace(error, least=PRECISIONS["bf16"], error=5e-2).excess > 1

    def test_so_is_a_gain_of_its_size(self) -> None:
        measured = [
            own(step, gain=2e-4, spread=1e-7, lane_gains=(1e-8, -1e-8), least=PRECISIONS["tf32"]) for step in range(4)
        ]
        assert gains(measured)[0].excess < 1
        assert gains([replace(one, least=FLOOR) for one in measured])[0].excess > 1

    def test_a_run_judges_by_it(
        self, disturbed: Shadowed, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        adapter = CandidateAdapter(tiny, fp32_on_cpu)
        adapter.sites()[SITE].module.register_forward_hook(lambda module, inputs, shown: shown.bfloat16().float())
        short = tiny.family.first_units(tiny_scenario, 1)
        assert wrong(fed_run(disturbed, adapter, tiny, short, [0])) == {SITE}
        assert wrong(fed_run(disturbed, adapter, tiny, short, [0], least=PRECISIONS["bf16"])) == set()


class TestPictures:
    """What a picture is made of was rounded differently, where it was not fed: some levels are then one apart."""

    class Few(CandidateAdapter):
        """Shows its latents and pictures."""

        apart: Tensor | int = 0

        def sites(self) -> Mapping[str, Site]:
            return {name: site for name, site in super().sites().items() if name in ("latent", "frame")}

        def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
            super().__init__(checkpoint, numerics)
            self.sites()["frame"].module.register_forward_hook(self.change)

        def change(self, module: object, inputs: object, picture: Tensor) -> Tensor:
            changed = picture.clone()
            # In one row of many.
            changed[..., 7, :, :] = (changed[..., 7, :, :].int() + self.apart).clamp(0, 255).to(torch.uint8)
            return changed

    @pytest.mark.sampled(1)
    @pytest.mark.parametrize(("apart", "are_wrong"), [(0, set()), (1, set()), (2, {"frame"})])
    def test_a_few_that_are_one_apart_are_right(
        self,
        apart: int,
        are_wrong: set[str],
        disturbed: Shadowed,
        tiny: Checkpoint,
        tiny_scenario: Scenario,
        fp32_on_cpu: Numerics,
    ) -> None:
        adapter = self.Few(tiny, fp32_on_cpu)
        adapter.apart = apart
        short = tiny.family.first_units(tiny_scenario, 1)
        assert wrong(fed_run(disturbed, adapter, tiny, short, [0])) == are_wrong
