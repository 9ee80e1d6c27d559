"""The adapter: every site, under its official name, in the passes where it belongs; and the bf16 roundings."""

from collections import defaultdict

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.candidate.conftest import CPU, GOLDEN
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Inputs
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.keys import At
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import passes
from waypoint_parity.harness.run.taps import Observation, recording


class Shapes:
    """A sink that keeps the names seen per pass, and the tensors of the last one."""

    def __init__(self) -> None:
        self.names: defaultdict[At, list[str]] = defaultdict(list)
        self.tensors: dict[str, Tensor] = {}

    def observe(self, seen: Observation) -> None:
        self.names[seen.key.at].append(seen.key.site)
        self.tensors[str(seen.key)] = seen.tensor.clone()

    def end_pass(self) -> None:
        pass


def watch(adapter: CandidateAdapter, scenario: Scenario, checkpoint: Checkpoint, last: Pass) -> Shapes:
    """Run a session up to and including the first pass like `last`."""
    sink = Shapes()
    with torch.inference_mode(), recording(adapter.sites(), sink) as recorder:
        seen_last = False
        for _, at in passes(adapter, scenario, checkpoint, recorder):
            if seen_last:
                break
            seen_last = (at.phase, at.step) == (last.phase, last.step)
    return sink


def test_each_pass_shows_exactly_its_sites(checkpoint: Checkpoint) -> None:
    scenario = read_scenario(GOLDEN / "image" / "scenario.safetensors")
    adapter = CandidateAdapter(checkpoint, Numerics(torch.float32, CPU))
    sink = watch(adapter, scenario, checkpoint, Pass("decode"))
    assert [at.phase for at in sink.names] == ["prompt", "image", *["denoise"] * 4, "cache", "decode"]
    table = site_table(checkpoint.geometry)
    for at, names in sink.names.items():
        assert sorted(names) == sorted(row.name for row, _ in table.shown(at.phase, at.step, ("",))), at


def test_bf16_conditioning_and_controls_are_the_official_ones_to_a_rounding(checkpoint: Checkpoint) -> None:
    """Sites that come before any sum whose order an implementation may choose; a processor may choose one too.

    With AVX-512, with AVX2 and with neither no value differs; one of another processor's may round to its neighbour.
    """
    golden = load_file(GOLDEN / "bf16" / "activations.safetensors")
    adapter = CandidateAdapter(checkpoint, Numerics(torch.bfloat16, CPU))
    scenario = read_scenario(GOLDEN / "bf16" / "scenario.safetensors")
    seen = watch(adapter, scenario, checkpoint, Pass("cache")).tensors
    for at in ("denoise0", "denoise1", "denoise2", "denoise3", "cache0"):
        for site in ("denoise_step_emb", "ctrl_emb"):
            steps = steps_apart(seen[f"u0/{at}/{site}"], golden[f"f0/{at}/{site}"])
            assert steps.max() <= 1, (at, site)
            assert (steps > 0).double().mean() <= 0.01, (at, site)


def steps_apart(one: Tensor, other: Tensor) -> Tensor:
    """How many numbers of bf16 further each value is than that of the other tensor, of one sign."""
    assert one.dtype == other.dtype == torch.bfloat16
    return (one.view(torch.int16).int() - other.view(torch.int16).int()).abs()


def test_a_prompt_where_none_belongs_or_none_where_one_does_is_refused(checkpoint: Checkpoint) -> None:
    adapter = CandidateAdapter(checkpoint, Numerics(torch.float32, CPU))
    with pytest.raises(ValueError, match=r"prompt does not suit[\s\S]*found:\s+no prompt"):
        adapter.start(None, torch.tensor([1.0, 0.0]))


def test_a_frame_before_the_start_is_refused(checkpoint: Checkpoint, scenario: Scenario) -> None:
    adapter = CandidateAdapter(checkpoint, Numerics(torch.float32, CPU))
    with pytest.raises(ValueError, match=r"no session is running[\s\S]*call start"):
        adapter.generate(scenario["noise"][0], Inputs(scenario).controls(0))
