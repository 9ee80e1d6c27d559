"""What the noise floor of the golden checkpoint is worth: no alarm in right runs, every alarm in wrong ones.

The floor travels with the checkpoint (fixtures/golden/base/noise_floor.*.json); the sessions here are not those that it
was measured with. False alarms in 1 of 1000 right runs, over all their sites.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from tests.parity.implementations import IMPLEMENTATIONS, golden_activations, golden_frames, run_pack
from tests.parity.scaled import ScaledCheckpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.judge.noise_floor.document import FALSE_ALARM_RATE, FloorBounds
from waypoint_parity.harness.judge.noise_floor.measure import against_itself
from waypoint_parity.harness.judge.standards import standards
from waypoint_parity.harness.run.adapter import DTYPES, Adapter, Numerics
from waypoint_parity.harness.run.keys import Key, is_input
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.scenario import Scenario

SEEDS = range(20)
SITE = "transformer.blocks.2.attn.v_proj"
# Of the projection's weight, from what anyone would see down to what the floor no longer tells from noise.
SCALES = (1.02, 1.01, 1.005, 1.003, 1.002, 1.001)


@dataclass(frozen=True)
class Bench:
    """The golden checkpoint in one dtype: the reference, and how sessions under its schedule are judged."""

    checkpoint: Checkpoint
    numerics: Numerics
    reference: Adapter
    judgement: Judgement

    def candidate(self, scale: float = 1.0) -> Adapter:
        """The candidate, with the projection SITE scaled."""
        scaled = ScaledCheckpoint.of(self.checkpoint, f"{SITE}.weight", scale)
        return find("candidate")(scaled, self.numerics)

    def scenario(self, seed: int, units: int) -> Scenario:
        """A session with noise, controls and a prompt of its own."""
        return make_scenario(self.checkpoint.geometry, name=f"seed {seed}", units=units, seed=100 * seed)

    def compare(self, candidate: Adapter, seed: int, units: int) -> Comparison:
        """A session of both, in lockstep."""
        sides = Side("eager", self.reference), Side("candidate", candidate)
        return lockstep(*sides, self.checkpoint, self.scenario(seed, units), self.judgement)

    def beyond(self, errors: dict[Key, Error]) -> dict[Key, Error]:
        """The errors that are no noise, in execution order."""
        limits = {key: self.judgement.bounds.of(key) for key in errors}
        return {
            key: error
            for key, error in errors.items()
            if error.rel_l2 > limits[key].rel_l2 or error.log_norm > limits[key].log_norm
        }

    def found(self, scale: float, seed: int) -> bool:
        """Whether the scaled projection is the first site beyond the floor, in the first denoise pass alone."""
        candidate, scenario = self.candidate(scale), self.scenario(seed, units=1)
        beyond = self.beyond(against_itself(self.reference, candidate, self.checkpoint, scenario, most_passes=2))
        return next(iter(beyond), None) == Key(0, "denoise", 0, SITE)


@pytest.fixture(scope="module", params=["bf16", "fp32"])
def bench(request: pytest.FixtureRequest, base: Checkpoint) -> Bench:
    return bench_of(request.param, base)


@pytest.fixture(scope="module")
def bf16(base: Checkpoint) -> Bench:
    return bench_of("bf16", base)


def bench_of(dtype: str, base: Checkpoint) -> Bench:
    numerics = Numerics(DTYPES[dtype], torch.device("cpu"))
    judged_by = standards(base.family, dtype, folder=base.folder, digest=base.digest)
    judgement = judged_by.judgement(base.geometry.transformer.scheduler_sigmas, ["prompt_emb", "prompt_pad_mask"])
    assert isinstance(judgement.bounds, FloorBounds)
    assert judgement.bounds.false_alarm_rate == 1e-3
    return Bench(base, numerics, find("eager")(base, numerics), judgement)


def test_no_right_run_is_called_diverged(bench: Bench) -> None:
    candidate = bench.candidate()
    for seed in SEEDS:
        comparison = bench.compare(candidate, seed, units=2)
        assert comparison.verdict is Verdict.WITHIN_NOISE, f"seed {seed}: {comparison.first}"
        assert comparison.compared == comparison.expected


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_official_bf16_run_is_within_the_noise_of_the_reference(implementation: str, bf16: Bench) -> None:
    """Recorded on another type of processor. What was stored in bf16 of the fp32 autoencoder is compared in bf16."""
    expected = golden_activations("bf16") | golden_frames("bf16")
    seen = run_pack(implementation, "bf16")
    errors = {
        key: tensor_error(seen[name].to(tensor.dtype), tensor)
        for name, tensor in expected.items()
        if not is_input((key := parsed(name)).site)
    }
    assert len(errors) > 300
    assert [key for key in errors if bf16.judgement.bounds.of(key).log_norm == math.inf] == []  # all by the floor
    nearest = max(errors, key=lambda key: errors[key].rel_l2 / (bf16.judgement.bounds.of(key).rel_l2 or math.inf))
    distance, limit = errors[nearest].rel_l2, bf16.judgement.bounds.of(nearest).rel_l2
    print(f"{implementation}: {len(errors)} tensors, nearest to its bound {nearest}: {distance:.1e} of {limit:.1e}")
    assert bf16.beyond(errors) == {}


def parsed(name: str) -> Key:
    """The key of a tensor's name: f{frame}/{phase}{step}/{site}."""
    frame, at, site = name.split("/")
    phase = at.rstrip("0123456789")
    return Key(int(frame[1:]), phase, int(at.removeprefix(phase)), site)


def test_a_projection_scaled_by_a_twentieth_is_named_in_every_run(bf16: Bench) -> None:
    candidate = bf16.candidate(1.05)
    for seed in SEEDS:
        comparison = bf16.compare(candidate, seed, units=1)
        assert comparison.verdict is Verdict.DIVERGED
        assert comparison.first is not None
        assert comparison.first.key == Key(0, "denoise", 0, SITE)


@pytest.mark.slow
def test_the_smallest_scale_that_is_named_in_every_run(bf16: Bench) -> None:
    found = {scale: sum(bf16.found(scale, seed) for seed in SEEDS) for scale in SCALES}
    always = [scale for scale, runs in found.items() if runs == len(SEEDS)]
    print(f"{SITE} scaled, named at a false-alarm rate of {FALSE_ALARM_RATE:.1%} in runs of {len(SEEDS)}: {found}")
    assert min(always) <= 1.01


def test_a_projection_scaled_by_a_hundred_thousandth_is_named_in_fp32(base: Checkpoint) -> None:
    """Two right fp32 runs differ by up to 7e-7 there."""
    fp32 = bench_of("fp32", base)
    comparison = fp32.compare(fp32.candidate(1 + 1e-5), seed=0, units=1)
    assert comparison.verdict is Verdict.DIVERGED
    assert comparison.first is not None
    assert comparison.first.key == Key(0, "denoise", 0, SITE)
    print(comparison.first)
