"""Scenarios of Wan: the schedule, what fits a checkpoint, the passes, what can be varied."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from waypoint_parity.fixtures.tiny_wan import TRANSFORMER
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.config import WanAutoencoder, WanGeometry, WanTransformer
from waypoint_parity.harness.families.wan.family import FAMILY
from waypoint_parity.harness.families.wan.scenario import alone, made, schedule
from waypoint_parity.harness.run.scenario import Scenario, read_scenario, write_scenario
from waypoint_parity.harness.run.sites import Kind

GEOMETRY = WanGeometry(WanTransformer(**TRANSFORMER), WanAutoencoder(base_dim=8))


@pytest.fixture
def scenario() -> Scenario:
    return made(GEOMETRY, name="test", seed=5, units=2)


def changed(scenario: Scenario, factor: str, level: str) -> Scenario:
    return FAMILY.factors[factor].change(scenario, GEOMETRY, level)


def test_the_schedule_is_the_official_one() -> None:
    # Printed by its FlowUniPCMultistepScheduler.
    assert schedule(4, 3.0)[0].tolist() == [999, 899, 749, 499]
    sigmas = schedule(50, 5.0)[1]
    assert sigmas[0].item() == pytest.approx(0.9998, abs=1e-5)
    assert sigmas[-2].item() == pytest.approx(0.09251, abs=1e-5)
    assert sigmas[-1].item() == 0


def test_a_scenario_survives_its_file(scenario: Scenario, tmp_path: Path) -> None:
    write_scenario(scenario, tmp_path / "one.safetensors")
    read = read_scenario(tmp_path / "one.safetensors")
    assert (read.digest, read.units, read.family) == (scenario.digest, 2, "wan")
    FAMILY.check(read, GEOMETRY)


def test_a_session_has_both_branches_of_every_step_and_decodes_every_latent(scenario: Scenario) -> None:
    passes = [(unit, at.phase, at.step, at.branches) for unit, at in FAMILY.session(scenario, GEOMETRY)]
    assert passes[:4] == [(0, "denoise", step, ("cond", "uncond")) for step in range(4)]
    assert passes[4:7] == [(0, "decode", latent, ("",)) for latent in range(3)]
    assert passes[7] == (0, "video", 0, ("",))
    assert [unit for unit, *_ in passes] == [0] * 8 + [1] * 8


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("noise", torch.zeros(2, 15, 3, 6, 10), "noise"),
        ("noise", torch.zeros(2, 16, 3, 5, 10), "noise"),
        ("prompt_emb", torch.zeros(513, 32), "prompt_emb"),
        ("negative_emb", torch.zeros(3, 31), "negative_emb"),
        ("sigmas", torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), "sigmas"),
    ],
)
def test_what_does_not_fit_is_named(scenario: Scenario, field: str, value: torch.Tensor, named: str) -> None:
    with pytest.raises(UserError) as error:
        FAMILY.check(scenario.with_tensors(**{field: value}), GEOMETRY)
    assert named in error.value.found


def test_no_guidance_is_refused(scenario: Scenario) -> None:
    with pytest.raises(UserError):
        FAMILY.check(replace(scenario, numbers={"guidance": 1.0, "shift": 3.0}), GEOMETRY)


@pytest.mark.parametrize(
    ("factor", "level", "fields"),
    [
        ("seed", "12", {"noise"}),
        ("schedule", "2", {"timesteps", "sigmas"}),
        ("schedule", "recorded", set()),
        ("shift", "5", {"timesteps", "sigmas"}),
        ("guidance", "3", set()),
        ("prompt", "40", {"prompt_emb"}),
        ("negative", "2", {"negative_emb"}),
        ("negative", "prompt", {"negative_emb"}),
        ("frames", "5", {"noise"}),
    ],
)
def test_a_factor_changes_its_fields_and_no_other(
    scenario: Scenario, factor: str, level: str, fields: set[str]
) -> None:
    other = changed(scenario, factor, level)
    FAMILY.check(other, GEOMETRY)
    unlike = {name for name in FAMILY.fields if not torch.equal(other[name], scenario[name])}
    assert unlike == fields
    assert (other.numbers != scenario.numbers) == (factor in ("guidance", "shift"))


def test_a_longer_prompt_begins_as_the_shorter_one(scenario: Scenario) -> None:
    longer = changed(scenario, "prompt", "40")["prompt_emb"]
    assert torch.equal(longer[:11], scenario["prompt_emb"])
    assert torch.equal(changed(scenario, "prompt", "3")["prompt_emb"], scenario["prompt_emb"][:3])


@pytest.mark.parametrize(
    ("factor", "level"), [("seed", "x"), ("schedule", "0"), ("shift", "-1"), ("frames", "8"), ("prompt", "0")]
)
def test_a_level_that_there_is_none_of_is_refused(scenario: Scenario, factor: str, level: str) -> None:
    with pytest.raises(UserError):
        changed(scenario, factor, level)


def test_a_clip_can_be_decoded_by_itself(scenario: Scenario) -> None:
    short, clips = alone(scenario, GEOMETRY, [1])
    FAMILY.check(short, GEOMETRY)
    assert (short.units, list(clips), short["timesteps"].shape[0]) == (1, [1], 1)
    assert torch.equal(short["noise"][0], scenario["noise"][1])


def test_every_site_reads_sites_and_belongs_to_a_part(scenario: Scenario) -> None:
    table = FAMILY.table(GEOMETRY, scenario)
    names = {row.name for row in table.rows}
    assert {name for row in table.rows for name in row.reads} <= names
    assert {row.part for row in table.rows} == {part.name for part in FAMILY.parts}
    assert {name for kind in FAMILY.kinds for name in kind.parts} <= {part.name for part in FAMILY.parts}
    assert table.sites(Kind.PICTURE) == ["picture"]
