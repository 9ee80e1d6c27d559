"""Waypoint 1.5 in the family: its sites, the passes of a session, the pictures that seed one, what its configs say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.family import FAMILY
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sites import Kind

HEIGHT, WIDTH = 64, 128
STILL = torch.arange(HEIGHT * WIDTH * 3, dtype=torch.float32).reshape(HEIGHT, WIDTH, 3).to(torch.uint8)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_waypoint_15(tmp_path_factory.mktemp("second") / "checkpoint"))


def scenario(checkpoint: Checkpoint, units: int = 2, **fields: Any) -> Scenario:
    made = FAMILY.make(checkpoint.geometry, name="a session", seed=1, units=units)
    return made.with_tensors(**fields)


def refused(tmp_path: Path, **overrides: Any) -> str:
    with pytest.raises(UserError) as caught:
        open_checkpoint(write_waypoint_15(tmp_path / "checkpoint", **overrides))
    return f"{caught.value.what} {caught.value.expected}"


@pytest.mark.parametrize("pack", ["w15-base", "w15-ts2", "w15-image", "w15-bf16"])
def test_every_site_of_the_official_packs_is_an_expected_one(golden: Path, second: Checkpoint, pack: str) -> None:
    with safe_open(golden / pack / "activations.safetensors", framework="pt") as file:
        sites = {name.split("/")[2] for name in file.keys() if name.count("/") == 2}  # noqa: SIM118 - no mapping
    assert sites
    assert sites <= {row.name for row in site_table(second.geometry).rows}


@pytest.mark.parametrize("implementation", ["eager", "candidate"])
def test_both_implementations_have_every_site(second: Checkpoint, fp32_on_cpu: Numerics, implementation: str) -> None:
    names = {row.name for row in site_table(second.geometry).rows}
    # A model without a prompt shows none.
    prompt = {"input.prompt_emb", "input.prompt_pad_mask"}
    assert names - find(implementation)(second, fp32_on_cpu).sites().keys() <= prompt


def test_a_table_without_a_geometry_knows_the_sites_of_both_generations(second: Checkpoint, tiny: Checkpoint) -> None:
    known = FAMILY.sites
    for checkpoint in (second, tiny):
        for row in site_table(checkpoint.geometry).rows:
            assert known.kind(row.name, row.phases[0]) is row.kind, row.name


def test_pictures_of_all_passes_are_told_apart(second: Checkpoint) -> None:
    """A seed latent is decoded, too, before the first frame: in a step of its own of the same unit."""
    seeded = FAMILY.prepared(scenario(second, image=STILL), second.geometry)
    passes = [(unit, at.step) for unit, at in FAMILY.session(seeded, second.geometry) if at.phase == "decode"]
    assert passes == [(0, 0), (0, 1), (1, 0)]
    plain = FAMILY.session(FAMILY.prepared(scenario(second), second.geometry), second.geometry)
    assert [(unit, at.step) for unit, at in plain if at.phase == "decode"] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("implementation", ["eager", "candidate"])
def test_both_implementations_announce_those_passes(
    second: Checkpoint, fp32_on_cpu: Numerics, implementation: str
) -> None:
    seeded = FAMILY.prepared(scenario(second, image=STILL), second.geometry)
    adapter = find(implementation)(second, fp32_on_cpu)
    announced = [(unit, at.phase, at.step) for unit, at in adapter.session(seeded)]
    assert announced == [(unit, at.phase, at.step) for unit, at in FAMILY.session(seeded, second.geometry)]


def test_a_still_picture_is_given_four_times(second: Checkpoint) -> None:
    given = FAMILY.prepared(scenario(second, image=STILL), second.geometry)["image"]
    assert given.shape == (4, HEIGHT, WIDTH, 3)
    assert all(picture.equal(STILL) for picture in given)


@pytest.mark.parametrize("shape", [(360, 640, 3), (3, HEIGHT, WIDTH, 3), (4, WIDTH, HEIGHT, 3)])
def test_pictures_of_another_number_or_size_are_refused(second: Checkpoint, shape: tuple[int, ...]) -> None:
    wrong = scenario(second, image=torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(UserError) as caught:
        second.check_scenario(wrong)
    assert str(list(shape)) in caught.value.found


def test_a_session_may_be_longer_than_n_frames(second: Checkpoint) -> None:
    second.check_scenario(scenario(second, units=70))


def test_a_latent_is_decoded_after_all_those_before_it(second: Checkpoint) -> None:
    seeded = scenario(second, units=4, image=STILL)
    alone, units = FAMILY.decoding.alone(seeded, second.geometry, [2])
    assert [*units] == [0, 1, 2]
    assert (alone.units, alone.get("image") is STILL) == (3, True)


def test_what_the_weights_say_is_nothing_for_the_config_file(second: Checkpoint, tmp_path: Path) -> None:
    folder = write_waypoint_15(tmp_path / "checkpoint")
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"picture_size": [360, 640]}))
    with pytest.raises(UserError) as caught:
        open_checkpoint(folder)
    assert "picture_size" in caught.value.found


def test_the_pictures_are_the_frame(second: Checkpoint) -> None:
    table = site_table(second.geometry)
    assert table.sites(Kind.PICTURE) == ["frame"]
    assert table.reads("frame")[0] in FAMILY.decoding.outputs


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"taehv_ae": False}, "taehv_ae"),
        ({"base_fps": 7}, "inference_fps"),
        ({"moe": True}, "moe"),
        ({"rope_impl": "axial"}, "rope_impl"),
        ({"global_attn_offset": None}, "global_attn_offset"),
        ({"model_type": "waypoint-2"}, "model_type"),
        ({"auto_aspect_ratio": True}, "auto_aspect_ratio"),
        ({"model_type": "waypoint-1"}, "taehv_ae"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"rope_nyquist_frac": -1.0}, "rope_nyquist_frac"),
    ],
)
def test_a_config_that_is_none_is_refused_by_key(tmp_path: Path, overrides: dict[str, Any], named: str) -> None:
    assert named in refused(tmp_path, **overrides)


@pytest.mark.parametrize(
    ("fps", "ratio"), [((15, 60, 4), 1), ((30, 60, 4), 2), ((60, 60, 1), 1), ((50, 60, 4), 3), ((15, 15, 3), 3)]
)
def test_the_ratio_of_the_clocks_is_rounded_down(tmp_path: Path, fps: tuple[int, int, int], ratio: int) -> None:
    keys = dict(zip(("base_fps", "inference_fps", "temporal_compression"), fps, strict=True))
    config = open_checkpoint(write_waypoint_15(tmp_path / "checkpoint", **keys)).geometry.transformer
    assert config.clock_ratio == ratio
