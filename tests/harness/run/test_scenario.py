import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.fixtures.tiny import transformer_config
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.scenario import IMAGE_SHAPE, SCHEMA, Scenario, read_scenario, write_scenario

CONFIG = transformer_config()


@pytest.fixture
def file(tiny_scenario: Scenario, tmp_path: Path) -> Path:
    path = tmp_path / "short.safetensors"
    write_scenario(tiny_scenario, path)
    return path


def rewrite(file: Path, metadata: dict[str, str] | None = None, **changes: Tensor | None) -> Path:
    """The file with some tensors replaced, or taken out where None."""
    tensors = load_file(file) | {name: tensor for name, tensor in changes.items() if tensor is not None}
    kept = {name: tensor for name, tensor in tensors.items() if changes.get(name, tensor) is not None}
    save_file(kept, file, metadata)
    return file


def refusal(scenario: Scenario) -> UserError:
    with pytest.raises(UserError) as caught:
        scenario.check(CONFIG)
    return caught.value


def test_a_scenario_is_read_back_as_it_was_written(tiny_scenario: Scenario, file: Path) -> None:
    found = read_scenario(file)
    assert found.tensors.keys() == tiny_scenario.tensors.keys()
    assert all(found.tensors[name].equal(tensor) for name, tensor in tiny_scenario.tensors.items())
    assert (found.name, found.seed, found.noise_policy) == ("short", 3, "per-frame")
    assert found.digest == tiny_scenario.digest


def test_the_seed_of_its_true_frames_travels_with_it(tiny_scenario: Scenario, tmp_path: Path) -> None:
    assert tiny_scenario.world_seed is None
    write_scenario(dataclasses.replace(tiny_scenario, world_seed=2_000_120), tmp_path / "rendered.safetensors")
    assert read_scenario(tmp_path / "rendered.safetensors").world_seed == 2_000_120


def test_an_official_scenario_is_read(golden: Path, base: Checkpoint) -> None:
    scenario = read_scenario(golden / "image" / "scenario.safetensors")
    base.family.check(scenario, base.geometry)
    assert scenario.get("image") is not None
    assert scenario.units == 3


def test_the_digest_is_that_of_the_tensors_alone(tiny_scenario: Scenario) -> None:
    renamed = dataclasses.replace(tiny_scenario, name="another", seed=99, noise_policy="global")
    assert renamed.digest == tiny_scenario.digest
    louder = dataclasses.replace(tiny_scenario, noise=tiny_scenario["noise"] * 1.0001)
    assert louder.digest != tiny_scenario.digest


def test_a_view_has_the_digest_of_its_values(tiny_scenario: Scenario) -> None:
    noise = tiny_scenario["noise"].transpose(-1, -2).contiguous().transpose(-1, -2)
    assert dataclasses.replace(tiny_scenario, noise=noise).digest == tiny_scenario.digest


def test_the_controls_of_a_frame_are_its_row(tiny_scenario: Scenario) -> None:
    controls = tiny_scenario.controls(1)
    assert controls.button.equal(tiny_scenario["button"][1])
    assert controls.mouse.equal(tiny_scenario["mouse"][1])
    assert controls.scroll.equal(tiny_scenario["scroll"][1])


def test_the_schedule_is_the_scenarios_own_else_the_checkpoints(tiny_scenario: Scenario) -> None:
    assert tiny_scenario.schedule(CONFIG).tolist() == [1.0, 0.5, 0.0]
    own = dataclasses.replace(tiny_scenario, sigmas=torch.tensor([1.0, 0.0]))
    assert own.schedule(CONFIG).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_refused_by_name(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError) as caught:
        read_scenario(file)
    assert caught.value.what == f"{file}: cannot be read as a scenario"


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors: cannot be read as a scenario"):
        read_scenario(tmp_path / "absent.safetensors")


def test_an_unknown_schema_is_refused(file: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(rewrite(file, {"schema": "waypoint-parity/scenario/2"}))
    assert (caught.value.found, caught.value.expected) == ("waypoint-parity/scenario/2", SCHEMA)


def test_a_seed_that_is_no_number_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="seed"):
        read_scenario(rewrite(file, {"seed": "eleven"}))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"noise": None}, "lacks noise"),
        ({"text": torch.zeros(1)}, "unknown text"),
        ({"noise": torch.zeros(2, 1, 1, 4, 2, 2, dtype=torch.float64)}, "noise is torch.float64, not torch.float32"),
        ({"prompt_pad_mask": None}, "prompt_emb and prompt_pad_mask come together or not at all"),
        ({"mouse": torch.tensor([[0.0, torch.nan], [0.0, 0.0]])}, "mouse holds values that are not finite"),
        ({"noise": torch.tensor(0.0)}, "noise is a single number"),
        ({"prompt_pad_mask": torch.tensor(False)}, "prompt_pad_mask is a single number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_scenario_is_refused_with_what_is_wrong(
    file: Path, changes: dict[str, Tensor | None], found: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(rewrite(file, **changes))
    assert caught.value.found == found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"noise": torch.zeros(2, 1, 1, 4, 2, 3)}, "noise [2, 1, 1, 4, 2, 3]"),
        ({"noise": torch.zeros(3, 1, 1, 4, 2, 2)}, "button [2, 4], mouse [2, 2], scroll [2, 1]"),
        ({"button": torch.zeros(2, 5)}, "button [2, 5]"),
        ({"image": torch.zeros(64, 64, 3, dtype=torch.uint8)}, "image [64, 64, 3]"),
        ({"prompt_emb": torch.zeros(1, 6, 31)}, "prompt_emb [1, 6, 31]"),
        ({"prompt_pad_mask": torch.zeros(1, 5, dtype=torch.bool)}, "prompt_emb [1, 6, 32]"),
    ],
    ids=["latent", "frames", "buttons", "image", "prompt width", "prompt length"],
)
def test_a_scenario_for_another_geometry_is_refused_with_every_tensor_that_does_not_fit(
    tiny_scenario: Scenario, changes: dict[str, Any], found: str
) -> None:
    assert refusal(dataclasses.replace(tiny_scenario, **changes)).found == found


def test_a_session_without_frames_is_refused(tiny_scenario: Scenario) -> None:
    """It would show nothing but its prompt, and any two implementations would agree."""
    names = ("noise", "button", "mouse", "scroll")
    empty = dataclasses.replace(tiny_scenario, **{name: getattr(tiny_scenario, name)[:0] for name in names})
    assert refusal(empty).found.startswith("noise [0, 1, 1, 4, 2, 2], button [0, 4]")


def test_a_prompt_where_the_checkpoint_takes_none_is_refused_and_the_other_way_round(tiny_scenario: Scenario) -> None:
    bare = dataclasses.replace(tiny_scenario, prompt_emb=None, prompt_pad_mask=None)
    assert (refusal(bare).found, refusal(bare).expected) == ("no prompt", "a prompt")
    with pytest.raises(UserError) as caught:
        tiny_scenario.check(transformer_config(prompt_conditioning=None))
    assert (caught.value.found, caught.value.expected) == ("a prompt", "no prompt")


@pytest.mark.parametrize(
    "sigmas", [[0.0], [1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, torch.nan, 0.0], [[1.0, 0.0]]]
)
def test_sigmas_must_fall_to_zero(tiny_scenario: Scenario, sigmas: list[float]) -> None:
    assert "not a sigma schedule" in refusal(dataclasses.replace(tiny_scenario, sigmas=torch.tensor(sigmas))).what


def test_an_image_of_the_right_shape_fits(tiny_scenario: Scenario) -> None:
    dataclasses.replace(tiny_scenario, image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8)).check(CONFIG)


def test_a_file_is_replaced_as_a_whole(tiny_scenario: Scenario, file: Path) -> None:
    write_scenario(dataclasses.replace(tiny_scenario, name="again"), file)
    assert read_scenario(file).name == "again"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_that_cannot_be_written_is_the_callers_error(tiny_scenario: Scenario, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_scenario(tiny_scenario, tmp_path / "file" / "short.safetensors")
