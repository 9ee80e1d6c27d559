"""A cell that is judged exactly: other mathematics, other precision, and what neither question can be asked of."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep import run_cell
from waypoint_parity.harness.sweep.parity import run_parity
from waypoint_parity.harness.sweep.run_cell import sampled

BF16 = torch.bfloat16


class Changed(CandidateAdapter):
    """The candidate with a change to what a site gives; in the frames from `since` on."""

    site, since = "transformer.blocks.1.mlp", 0

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self._frames = 0
        self.sites()[self.site].module.register_forward_hook(self._change)

    def start(self, *given: Any) -> Iterator[Pass]:
        self._frames = -1
        return super().start(*given)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        self._frames += 1
        yield from super().generate(noise, controls)

    def _change(self, module: Any, inputs: Any, output: Tensor) -> Tensor:
        return self.changed(output) if self._frames >= self.since else output

    def changed(self, output: Tensor) -> Tensor:
        raise NotImplementedError


class Louder(Changed):
    """By less than anybody would measure."""

    def changed(self, output: Tensor) -> Tensor:
        return output * (1 + 1e-7)


class Rougher(Changed):
    """In bf16 where the rest is in fp32."""

    def changed(self, output: Tensor) -> Tensor:
        return output.bfloat16().float()


class RougherLater(Rougher):
    """The same from the second frame on."""

    since = 1


class ThroughNumpy(CandidateAdapter):
    """Shows everything through NumPy, as an engine that is none of torch's does: shown, and not followed."""

    def sites(self) -> dict[str, Site]:
        def shown(site: Site) -> Site:
            def layout(output: Any, inputs: Any) -> Tensor:
                value = site.shown(output, inputs)
                assert isinstance(value, Tensor)
                return torch.from_numpy(value.numpy().copy())

            return Site(site.module, layout)

        return {name: shown(site) for name, site in super().sites().items()}


class RougherThroughNumpy(ThroughNumpy, RougherLater):
    """Both."""


class Moody(ThroughNumpy, Changed):
    """Is off once it is `moved`, by what no site shows."""

    moved = False

    def changed(self, output: Tensor) -> Tensor:
        return output * 1.001 if self.moved else output


class TablesOfFp32(CandidateAdapter):
    """Turns by cosines and sines that have not passed through the model's dtype."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        rope = self.engine.model.rope
        forward: Any = rope.forward
        rope.forward = lambda timestamp, dtype: forward(timestamp, torch.float32)  # type: ignore[method-assign]


class OtherNoise(CandidateAdapter):
    """Consumes another noise than it was given."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        return super().generate(noise.flip(-1), controls)


@pytest.fixture(scope="module")
def scenario(tiny: Checkpoint) -> Scenario:
    """Two frames, the first of which is the one that a cell samples."""
    made = (tiny.family.make(tiny.geometry, name="short", seed=seed, units=2) for seed in count())
    return next(scenario for scenario in made if sampled(scenario) == 0)


@pytest.fixture
def compared(tiny: Checkpoint, scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path) -> Any:
    """The comparison of a cell whose candidate is this class."""

    def run(candidate: type, numerics: Numerics = fp32_on_cpu) -> Comparison:
        cells = tiny_cells(tiny, scenario, numerics, implementations=[f"{__name__}:{candidate.__name__}"])
        summary = run_parity(tiny_run(tiny, tmp_path, exact=True), cells)
        assert not summary.failures
        (comparison,) = summary.variants.values()
        return comparison

    return run


def wrong_by_itself(comparison: Comparison) -> set[str]:
    return {each.site for each in comparison.failures if (each.local or 0.0) > 1}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", [torch.float32, BF16], ids=["fp32", "bf16"])
def test_other_mathematics_is_named_at_its_site_in_any_dtype(dtype: torch.dtype, compared: Any) -> None:
    found = compared(Louder, Numerics(dtype, torch.device("cpu")))
    assert found.verdict is Verdict.DIVERGED
    assert found.first.site == Louder.site
    assert 5e-8 < found.first.exact < 2e-7
    assert not found.mathematics.same


def test_a_constant_that_one_side_rounds_is_told_from_other_mathematics(compared: Any) -> None:
    bf16 = Numerics(BF16, torch.device("cpu"))
    rounded = compared(TablesOfFp32, bf16)
    assert rounded.first.site == "transformer.blocks.0.attn.q_rope"
    assert rounded.mathematics.in_constants
    assert not compared(Louder, bf16).mathematics.in_constants


def test_a_cause_that_is_less_than_noise_is_not_searched_for_in_vain(
    tiny: Checkpoint, scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    cells = tiny_cells(tiny, scenario, fp32_on_cpu, implementations=[f"{__name__}:{Louder.__name__}"])
    summary = run_parity(tiny_run(tiny, tmp_path, exact=True, blame=True), cells)
    assert summary.blamed is None
    assert summary.not_blamed is not None
    assert Louder.site in summary.not_blamed


def test_other_precision_is_named_at_its_site_and_is_the_same_mathematics(compared: Any) -> None:
    found = compared(Rougher)
    assert found.verdict is Verdict.DIVERGED
    assert found.first.site == Rougher.site
    assert found.first.local > 100
    assert wrong_by_itself(found) == {Rougher.site}
    assert found.mathematics.same


@pytest.mark.slow
def test_precision_that_is_lost_later_is_found_in_a_unit_that_was_not_sampled(compared: Any) -> None:
    found = compared(RougherLater)
    assert (found.first.site, found.first.unit) == (Rougher.site, RougherLater.since)
    assert RougherLater.since in found.precision.units


def test_another_input_is_no_question_of_either_kind(compared: Any) -> None:
    found = compared(OtherNoise)
    assert found.verdict is Verdict.INCOMPARABLE
    assert found.mathematics is None


@pytest.mark.slow
def test_a_right_engine_that_cannot_be_followed_is_judged_by_itself_in_every_unit(
    compared: Any, scenario: Scenario
) -> None:
    found = compared(ThroughNumpy)
    assert found.verdict.passes
    assert found.mathematics is None
    assert found.precision.units == list(range(scenario.units))
    assert found.precision.worst < 0.5


def test_a_wrong_engine_that_cannot_be_followed_is_named_at_its_site(compared: Any) -> None:
    found = compared(RougherThroughNumpy)
    assert (found.first.site, found.first.unit) == (Rougher.site, RougherLater.since)
    assert wrong_by_itself(found) == {Rougher.site}


class TestWhatNoSiteShows:
    @pytest.fixture
    def moved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The free-running session is another one than that in which each site was judged by itself."""

        def later(*given: Any, **named: Any) -> Comparison:
            monkeypatch.setattr(Moody, "moved", True)
            return lockstep(*given, **named)

        monkeypatch.setattr(run_cell, "lockstep", later)

    @pytest.mark.usefixtures("moved")
    def test_it_leaves_an_error_that_is_not_explained(self, compared: Any) -> None:
        found = compared(Moody)
        assert found.verdict is Verdict.UNEXPLAINED
        assert found.first.site == Moody.site
        assert found.first.grown > 1
        assert wrong_by_itself(found) == set()

    @pytest.mark.usefixtures("moved")
    def test_of_a_large_model_nobody_asks_and_that_is_said(
        self, compared: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_cell, "MOST_PARAMETERS", 0)
        found = compared(Moody)
        assert found.verdict.passes
        assert found.notes == [run_cell.GROWTH_NOT_ASKED]

    def test_of_an_engine_that_is_followed_nobody_needs_to(self, compared: Any) -> None:
        assert compared(CandidateAdapter).notes == []
