"""Scenarios of causal Wan: schedule, what fits a checkpoint, passes, what can be varied; and the golden pack."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from waypoint_parity.fixtures.golden_causal_wan import GOLDEN, scenario_of
from waypoint_parity.fixtures.tiny_causal_wan import WINDOW, write_causal_wan
from waypoint_parity.fixtures.tiny_wan import TRANSFORMER
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.config import CausalWanGeometry
from waypoint_parity.harness.families.causal_wan.family import FAMILY
from waypoint_parity.harness.families.causal_wan.kinds import words
from waypoint_parity.harness.families.causal_wan.scenario import made, schedule
from waypoint_parity.harness.families.wan.config import WanTransformer
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario, read_scenario, write_scenario
from waypoint_parity.harness.run.session import expected_keys

GEOMETRY = CausalWanGeometry(WanTransformer(**TRANSFORMER), **WINDOW)


@pytest.fixture
def scenario() -> Scenario:
    return made(GEOMETRY, name="test", seed=5, units=6)


def changed(scenario: Scenario, factor: str, level: str) -> Scenario:
    return FAMILY.factors[factor].change(scenario, GEOMETRY, level)


def test_the_schedule_is_the_official_one() -> None:
    # Its steps 1000, 750, 500 and 250 after the warp by a shift of 5.
    timesteps, sigmas = schedule(4, 5.0)
    assert timesteps.tolist() == pytest.approx([1000, 937.5, 833.3333, 625])
    assert torch.equal(sigmas * 1000, timesteps)


def test_a_scenario_survives_its_file(scenario: Scenario, tmp_path: Path) -> None:
    write_scenario(scenario, tmp_path / "one.safetensors")
    read = read_scenario(tmp_path / "one.safetensors")
    assert (read.digest, read.units, read.family) == (scenario.digest, 6, "causal-wan")
    FAMILY.check(read, GEOMETRY)


def test_every_step_has_noise_of_its_own(scenario: Scenario) -> None:
    draws = scenario["noise"].flatten(0, 1)
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 6 * 4


def test_a_chunk_has_its_steps_and_a_clean_pass(scenario: Scenario) -> None:
    passes = [(unit, at.phase, at.step) for unit, at in FAMILY.session(scenario, GEOMETRY)]
    assert passes[:6] == [*((0, "denoise", step) for step in range(4)), (0, "clean", 0), (1, "denoise", 0)]
    assert len(passes) == 6 * 5
    assert [unit for unit, _ in FAMILY.session(FAMILY.first_units(scenario, 2), GEOMETRY)][-1] == 1


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("noise", torch.zeros(2, 4, 15, 1, 6, 10), "noise"),
        ("noise", torch.zeros(2, 4, 16, 1, 5, 10), "noise"),
        ("noise", torch.zeros(2, 3, 16, 1, 6, 10), "3 steps"),
        ("noise", torch.zeros(2, 4, 16, 4, 6, 10), "4 latents"),
        ("noise", torch.zeros(16, 1, 6, 10), "noise"),
        ("prompt_emb", torch.zeros(513, 32), "prompt_emb"),
        ("sigmas", torch.tensor([0.1, 0.2, 0.3, 0.4]), "sigmas"),
        ("timesteps", torch.tensor([900.0, 800.0, 800.0, 700.0]), "timesteps"),
    ],
)
def test_what_does_not_fit_is_named(scenario: Scenario, field: str, value: torch.Tensor, named: str) -> None:
    with pytest.raises(UserError) as error:
        FAMILY.check(scenario.with_tensors(**{field: value}), GEOMETRY)
    assert named in error.value.found


def test_a_model_that_keeps_all_has_no_room_for_more(scenario: Scenario) -> None:
    everything = CausalWanGeometry(GEOMETRY.transformer, -1, 0)
    FAMILY.check(changed(scenario, "chunks", "21"), everything)
    with pytest.raises(UserError):
        FAMILY.check(changed(scenario, "chunks", "22"), everything)


@pytest.mark.parametrize(
    ("factor", "level", "fields"),
    [
        ("seed", "12", {"noise"}),
        ("schedule", "2", {"noise", "timesteps", "sigmas"}),
        ("schedule", "recorded", set()),
        ("chunks", "3", {"noise"}),
        ("chunks", "8", {"noise"}),
        ("latents", "3", {"noise"}),
        ("prompt", "40", {"prompt_emb"}),
    ],
)
def test_a_factor_changes_its_fields_and_no_other(
    scenario: Scenario, factor: str, level: str, fields: set[str]
) -> None:
    other = changed(scenario, factor, level)
    FAMILY.check(other, GEOMETRY)
    assert {name for name in FAMILY.fields if not torch.equal(other[name], scenario[name])} == fields
    assert other.units == (int(level) if factor == "chunks" else 6)


def test_more_chunks_begin_as_the_fewer(scenario: Scenario) -> None:
    assert torch.equal(changed(scenario, "chunks", "8")["noise"][:6], scenario["noise"])


@pytest.mark.parametrize(("factor", "level"), [("seed", "x"), ("schedule", "0"), ("chunks", "-1"), ("prompt", "0")])
def test_a_level_that_there_is_none_of_is_refused(scenario: Scenario, factor: str, level: str) -> None:
    with pytest.raises(UserError):
        changed(scenario, factor, level)


def test_every_site_reads_sites_and_belongs_to_a_part(scenario: Scenario) -> None:
    table = FAMILY.table(GEOMETRY, scenario)
    names = {row.name for row in table.rows}
    assert {name for row in table.rows for name in row.reads} <= names
    assert {row.part for row in table.rows} == {part.name for part in FAMILY.parts}
    assert {name for kind in FAMILY.kinds for name in kind.parts} <= {part.name for part in FAMILY.parts}


def test_words_tell_when_the_window_was_full(scenario: Scenario) -> None:
    def told(unit: int, phase: str = "denoise") -> list[str]:
        key = Key(unit, phase, 0, "entering")
        return words(key, [key], GEOMETRY, scenario)

    assert told(0) == ["first chunk"]
    assert told(3, "clean") == ["later chunk", "clean pass only"]
    assert told(4) == ["later chunk", "once the window is full"]


def test_the_golden_pack_is_of_this_checkpoint_and_this_scenario(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_causal_wan(tmp_path / "tiny"))
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    recorded = read_scenario(GOLDEN / "scenario.safetensors")
    assert (checkpoint.digest, recorded.digest) == (manifest["checkpoint"], manifest["scenario"])
    assert torch.equal(scenario_of(checkpoint)["noise"], recorded["noise"])
    with safe_open(GOLDEN / "activations.safetensors", "pt") as file:
        held = set(file.keys())
        ends = file.get_tensor("u3/clean0/kv_cache.layers.1.ends").tolist()
        shape = file.get_slice("u2/denoise0/blocks.0.self_attn.window").get_shape()
    assert held <= {str(key) for key in expected_keys(recorded, checkpoint)}
    # Eight latents of two tokens went in, and the window holds four.
    assert ends == [16, 8]
    assert shape[2] == WINDOW["local_attn_size"]
