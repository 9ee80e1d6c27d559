import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.family import FAMILY
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE, Inputs, alone, check, of_frames, schedule
from waypoint_parity.harness.run.scenario import Scenario, read_scenario, write_scenario

CONFIG = transformer_config()
GEOMETRY = WaypointGeometry(CONFIG, autoencoder_config(CONFIG))


def refusal(scenario: Scenario, geometry: WaypointGeometry = GEOMETRY) -> UserError:
    with pytest.raises(UserError) as caught:
        check(scenario, geometry)
    return caught.value


def refusal_of_a_file(path: Path, scenario: Scenario, **metadata: str) -> UserError:
    save_file(dict(scenario.tensors), path, metadata)
    with pytest.raises(UserError) as caught:
        read_scenario(path)
    return caught.value


def test_the_seed_of_its_true_frames_travels_with_it(tiny_scenario: Scenario, tmp_path: Path) -> None:
    assert "world_seed" not in tiny_scenario.labels
    rendered = dataclasses.replace(tiny_scenario, labels={**tiny_scenario.labels, "world_seed": "2000120"})
    write_scenario(rendered, tmp_path / "rendered.safetensors")
    assert read_scenario(tmp_path / "rendered.safetensors").labels["world_seed"] == "2000120"


def test_an_official_scenario_is_read(golden: Path, base: Checkpoint) -> None:
    scenario = read_scenario(golden / "image" / "scenario.safetensors")
    base.family.check(scenario, base.geometry)
    assert scenario.get("image") is not None
    assert scenario.units == 3


def test_the_controls_of_a_frame_are_its_row(tiny_scenario: Scenario) -> None:
    controls = Inputs(tiny_scenario).controls(1)
    assert controls.button.equal(tiny_scenario["button"][1])
    assert controls.mouse.equal(tiny_scenario["mouse"][1])
    assert controls.scroll.equal(tiny_scenario["scroll"][1])


def test_the_inputs_have_the_names_of_the_model(tiny_scenario: Scenario) -> None:
    given = Inputs(FAMILY.prepared(tiny_scenario, GEOMETRY))
    assert given.prompt is not None
    assert given.prompt.embedding is tiny_scenario["prompt_emb"]
    assert given.prompt.pad_mask is tiny_scenario["prompt_pad_mask"]
    assert (given.noise is tiny_scenario["noise"], given.image, given.sigmas.tolist()) == (True, None, [1.0, 0.5, 0.0])
    assert Inputs(tiny_scenario.with_tensors(prompt_emb=None, prompt_pad_mask=None)).prompt is None


def test_the_schedule_is_the_scenarios_own_else_the_checkpoints(tiny_scenario: Scenario) -> None:
    assert schedule(tiny_scenario, CONFIG).tolist() == FAMILY.sigmas(tiny_scenario, GEOMETRY) == [1.0, 0.5, 0.0]
    own = tiny_scenario.with_tensors(sigmas=torch.tensor([1.0, 0.0]))
    assert schedule(own, CONFIG).tolist() == FAMILY.sigmas(own, GEOMETRY) == [1.0, 0.0]
    signed = tiny_scenario.with_tensors(sigmas=torch.tensor([1.0, -0.0]))
    assert str(FAMILY.sigmas(signed, GEOMETRY)) == "[1.0, 0.0]"


def test_a_session_may_be_cut_to_some_of_its_frames(tiny_scenario: Scenario) -> None:
    seeded = tiny_scenario.with_tensors(image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))
    second = of_frames(seeded, [1])
    assert (second.units, FAMILY.units(second.tensors)) == (1, 1)
    assert second["noise"].equal(seeded["noise"][1:])
    assert second["prompt_emb"] is seeded["prompt_emb"]
    assert FAMILY.first_units(seeded, 1)["mouse"].equal(seeded["mouse"][:1])
    shortest, units = alone(seeded, GEOMETRY, [1])
    assert [*units] == [1]
    assert (shortest.get("image"), shortest["sigmas"].tolist()) == (None, [1.0, 0.0])
    check(shortest, GEOMETRY)


def test_a_prompt_and_its_mask_come_together_or_not_at_all(tiny_scenario: Scenario, tmp_path: Path) -> None:
    found = refusal_of_a_file(tmp_path / "half.safetensors", tiny_scenario.with_tensors(prompt_pad_mask=None)).found
    assert found == "prompt_emb and prompt_pad_mask come together or not at all"


def test_a_world_seed_that_is_no_number_is_refused(tiny_scenario: Scenario, tmp_path: Path) -> None:
    found = refusal_of_a_file(tmp_path / "rendered.safetensors", tiny_scenario, world_seed="eleven").found
    assert found == "world_seed eleven is no whole number of 64 bits"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"button": torch.full((2, 4), 2.0)}, "button holds values that are not from 0 (up) to 1 (down)"),
        ({"button": torch.full((2, 4), -1.0)}, "button holds values that are not from 0 (up) to 1 (down)"),
        ({"noise": torch.zeros(0, 1, 1, 4, 2, 2)}, "noise has no frames"),
        (
            {"prompt_emb": torch.zeros(1, 0, 32), "prompt_pad_mask": torch.zeros(1, 0, dtype=torch.bool)},
            "prompt_emb has no tokens",
        ),
    ],
    ids=["pressed twice", "pressed less than not", "no frames", "no tokens"],
)
def test_what_no_session_can_be_given_is_refused(
    tiny_scenario: Scenario, tmp_path: Path, changes: dict[str, Any], found: str
) -> None:
    assert refusal_of_a_file(tmp_path / "odd.safetensors", tiny_scenario.with_tensors(**changes)).found == found


@pytest.mark.parametrize(("image", "most"), [(False, 64), (True, 63)], ids=["frames alone", "after an image"])
def test_a_session_longer_than_the_model_is_refused(tiny_scenario: Scenario, image: bool, most: int) -> None:
    picture = torch.zeros(IMAGE_SHAPE, dtype=torch.uint8) if image else None
    longest = of_frames(tiny_scenario, [0] * most).with_tensors(image=picture)
    check(longest, GEOMETRY)
    error = refusal(of_frames(longest, [0] * (most + 1)))
    assert error.found.startswith(f"{most + 1} frames")
    assert error.expected == f"at most {most} (n_frames 64)"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"noise": torch.zeros(2, 1, 1, 4, 2, 3)}, "noise [2, 1, 1, 4, 2, 3]"),
        ({"button": torch.zeros(2, 5)}, "button [2, 5]"),
        ({"image": torch.zeros(64, 64, 3, dtype=torch.uint8)}, "image [64, 64, 3]"),
        ({"prompt_emb": torch.zeros(1, 6, 31)}, "prompt_emb [1, 6, 31]"),
        ({"prompt_pad_mask": torch.zeros(1, 5, dtype=torch.bool)}, "prompt_emb [1, 6, 32]"),
    ],
    ids=["latent", "buttons", "image", "prompt width", "prompt length"],
)
def test_a_scenario_for_another_geometry_is_refused_with_every_tensor_that_does_not_fit(
    tiny_scenario: Scenario, changes: dict[str, Any], found: str
) -> None:
    assert refusal(tiny_scenario.with_tensors(**changes)).found == found


def test_noise_of_more_frames_than_the_controls_is_refused(tiny_scenario: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "longer.safetensors"
    tensors: dict[str, Tensor] = {**tiny_scenario.tensors, "noise": torch.zeros(3, 1, 1, 4, 2, 2)}
    save_file(tensors, path)
    assert refusal(read_scenario(path)).found == "button [2, 4], mouse [2, 2], scroll [2, 1]"


def test_a_session_without_frames_is_refused(tiny_scenario: Scenario) -> None:
    """It would show nothing but its prompt, and any two implementations would agree."""
    assert refusal(of_frames(tiny_scenario, [])).found.startswith("noise [0, 1, 1, 4, 2, 2], button [0, 4]")


def test_a_prompt_where_the_checkpoint_takes_none_is_refused_and_the_other_way_round(tiny_scenario: Scenario) -> None:
    bare = tiny_scenario.with_tensors(prompt_emb=None, prompt_pad_mask=None)
    assert (refusal(bare).found, refusal(bare).expected) == ("no prompt", "a prompt")
    promptless = dataclasses.replace(GEOMETRY, transformer=transformer_config(prompt_conditioning=None))
    error = refusal(tiny_scenario, promptless)
    assert (error.found, error.expected) == ("a prompt", "no prompt")


@pytest.mark.parametrize(
    "sigmas",
    [[0.0], [1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, torch.nan, 0.0], [torch.inf, 0.0], [[1.0, 0.0]]],
)
def test_sigmas_must_fall_to_zero(tiny_scenario: Scenario, sigmas: list[float]) -> None:
    assert "not a sigma schedule" in refusal(tiny_scenario.with_tensors(sigmas=torch.tensor(sigmas))).what


def test_an_image_of_the_right_shape_fits(tiny_scenario: Scenario) -> None:
    check(tiny_scenario.with_tensors(image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8)), GEOMETRY)
