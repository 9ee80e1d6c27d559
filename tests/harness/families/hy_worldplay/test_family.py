"""The family of HY-WorldPlay: checkpoints, scenarios, passes, and what the memory holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from waypoint_parity.fixtures.tiny_hy_worldplay import TRANSFORMER, VAE, write_hy_worldplay
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.hy_worldplay.caches import MemoryCaches
from waypoint_parity.harness.families.hy_worldplay.config import HyGeometry, Transformer
from waypoint_parity.harness.families.hy_worldplay.family import FAMILY
from waypoint_parity.harness.families.hy_worldplay.scenario import made, padded, told, whole_noise
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario, read_scenario, write_scenario
from waypoint_parity.harness.run.sites import Kind

GEOMETRY = HyGeometry(Transformer(**TRANSFORMER), VAE)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return made(GEOMETRY, name="test", seed=5, units=2)


def test_a_checkpoint_is_known_by_its_files_and_checked_by_its_keys(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    checkpoint = open_checkpoint(write_hy_worldplay(tmp_path / "tiny"))
    assert (checkpoint.family_name, checkpoint.geometry) == ("hy-worldplay", GEOMETRY)
    other = tmp_path / "tiny" / "wan_transformer" / "config.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"num_layers": 3}))
    with pytest.raises(UserError) as error:
        open_checkpoint(tmp_path / "tiny")
    assert "blocks.2." in error.value.found


@pytest.mark.parametrize(
    "changes", [{"attention_head_dim": 22}, {"num_layers": 0}, {"patch_size": [1, 1, 1]}, {"image_dim": 4}, {"more": 1}]
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    for name, values in (("wan_transformer", TRANSFORMER | changes), ("vae", VAE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError) as error:
        FAMILY.open(tmp_path, lambda name: tmp_path / name)
    assert next(iter(changes)) in error.value.found


def test_a_scenario_survives_its_file(scenario: Scenario, tmp_path: Path) -> None:
    write_scenario(scenario, tmp_path / "two.safetensors")
    read = read_scenario(tmp_path / "two.safetensors")
    assert (read.digest, read.units, read.family) == (scenario.digest, 2, "hy-worldplay")
    FAMILY.check(read, GEOMETRY)
    assert FAMILY.first_units(read, 1)["viewmats"].shape == (1, 4, 4, 4)


def test_the_noise_is_one_draw_cut_along_the_latents(scenario: Scenario) -> None:
    whole = whole_noise(scenario)
    assert whole.shape == (1, 8, 8, 44, 80)
    assert torch.equal(whole[0, :, 4:], scenario["noise"][1])
    # The vendor draws all of it at once: the first values are those of the first channel, through all latents.
    drawn = torch.randn(8, 8, 44, 80, generator=torch.Generator().manual_seed(20))
    assert torch.equal(whole[0], drawn)


def test_cameras_turn_and_a_prompt_is_padded(scenario: Scenario) -> None:
    turned = scenario["viewmats"][..., :3, :3]
    assert torch.allclose(turned @ turned.mT, torch.eye(3).expand_as(turned), atol=1e-6)
    assert padded(scenario["prompt_emb"]).shape == (1, 512, 32)
    assert not padded(scenario["prompt_emb"])[0, 11:].any()


def test_points_are_recorded_where_a_session_is_long_enough_for_a_choice(scenario: Scenario) -> None:
    assert scenario.get("points") is None
    long = made(GEOMETRY, name="long", seed=5, units=5)
    assert long["points"].norm(dim=1).max() <= 8
    FAMILY.check(long, GEOMETRY)
    with pytest.raises(UserError, match="checkpoint") as error:
        FAMILY.check(long.with_tensors(points=None), GEOMETRY)
    assert "points" in error.value.found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise", torch.zeros(2, 9, 4, 44, 80)),
        ("noise", torch.zeros(2, 8, 4, 44, 40)),
        ("prompt_emb", torch.zeros(513, 32)),
        ("viewmats", torch.zeros(2, 4, 3, 4)),
        ("action", torch.zeros(2, 3)),
        ("timesteps", torch.tensor([700.0, 800.0])),
        ("timesteps", torch.tensor([])),
    ],
)
def test_what_does_not_fit_is_named(scenario: Scenario, field: str, value: Tensor) -> None:
    changed = scenario.with_tensors(**{field: value})
    if not value.numel():
        assert any(field in problem for problem in FAMILY.problems(changed.tensors, {}))
        return
    with pytest.raises(UserError) as error:
        FAMILY.check(changed, GEOMETRY)
    assert field in error.value.found


def test_a_session_has_a_memory_behind_its_first_chunk(scenario: Scenario) -> None:
    passes = [(unit, at.phase, at.step) for unit, at in FAMILY.session(scenario, GEOMETRY)]
    steps = [("denoise", step) for step in range(4)] + [("decode", latent) for latent in range(4)] + [("video", 0)]
    assert passes[:10] == [(0, *at) for at in [("plan", 0), *steps]]
    assert passes[10:] == [(1, *at) for at in [("plan", 0), ("memory", 0), *steps]]
    assert FAMILY.sigmas(scenario, GEOMETRY)[-1] == 0


def test_steps_and_noise_can_be_varied(scenario: Scenario) -> None:
    two = FAMILY.factors["schedule"].change(scenario, GEOMETRY, "2")
    assert two["timesteps"].tolist() == [1000, 960]
    other = FAMILY.factors["seed"].change(scenario, GEOMETRY, "11")
    assert not torch.equal(other["noise"], scenario["noise"])
    assert replace(other, seed=5).with_tensors(noise=scenario["noise"]).digest == scenario.digest
    with pytest.raises(UserError):
        FAMILY.factors["schedule"].change(scenario, GEOMETRY, "5")


def test_what_the_memory_holds_is_right_or_wrong_and_its_keys_are_a_cache(scenario: Scenario) -> None:
    table = FAMILY.table(GEOMETRY, scenario)
    assert table.sites(Kind.MASK) == ["memory.latents", "memory.timestep"]
    assert table.sites(Kind.CACHE) == ["memory.0.k", "memory.0.v", "memory.1.k", "memory.1.v"]
    parts = {part.name for part in FAMILY.parts}
    assert {row.part for row in table.rows} == parts
    known = {row.name for row in table.rows}
    assert all(known.issuperset(row.reads) for row in table.rows)
    assert {part for kind in FAMILY.kinds for part in kind.parts} <= parts


def test_a_memory_is_told_by_the_latents_that_it_holds() -> None:
    caches = MemoryCaches()
    key = Key(2, "memory", 0, "memory.latents")
    right, wrong = (
        caches.sign(key, None, None, caches.marks(key.site, told(held, 12), [])) for held in (range(8), range(4, 8))
    )
    same, other = caches.comparison([], teacher_forced=False), caches.comparison([], teacher_forced=False)
    same.reference(0, right)
    same.candidate(right)
    other.reference(0, right)
    other.candidate(wrong)
    assert same.faults == []
    assert [(fault.unit, fault.slot) for fault in other.faults] == [(2, 0)]
