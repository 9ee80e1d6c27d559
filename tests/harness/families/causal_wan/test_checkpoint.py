"""Checkpoints of causal Wan: how they are told from those of Wan, what they hold, what is refused."""

import json
from pathlib import Path

import pytest

from waypoint_parity.fixtures.tiny_causal_wan import WINDOW, write_causal_wan
from waypoint_parity.fixtures.tiny_wan import write_wan
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.family import FAMILY
from waypoint_parity.harness.families.wan.family import FAMILY as WAN
from waypoint_parity.harness.run.family import family_in


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal_wan(tmp_path_factory.mktemp("causal") / "tiny")


def test_it_is_told_from_wan_by_its_class(folder: Path, tmp_path: Path) -> None:
    assert family_in(folder) is FAMILY
    assert family_in(write_wan(tmp_path / "wan", num_layers=1)) is WAN


def test_it_holds_the_weights_of_wan_and_a_window(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    shapes = checkpoint.files["transformer"].shapes()
    assert {key: tuple(shape) for key, shape in shapes.items()} == FAMILY.keys("transformer", checkpoint.geometry)
    told = checkpoint.geometry.to_json()["transformer"]
    assert {name: told[name] for name in WINDOW} == WINDOW
    assert checkpoint.geometry.slots == WINDOW["local_attn_size"]


def test_what_is_written_again_is_the_same(folder: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(folder), "official", tmp_path / "again")
    assert open_checkpoint(tmp_path / "again").digest == open_checkpoint(folder).digest
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )


def test_a_model_without_a_window_keeps_everything(folder: Path, tmp_path: Path) -> None:
    with_config(folder, tmp_path, local_attn_size=-1, sink_size=0)
    assert open_checkpoint(tmp_path).geometry.slots == 21


@pytest.mark.parametrize(
    "changed",
    [
        {"sink_size": 4},
        {"local_attn_size": 0},
        {"local_attn_size": None},
        {"local_attn_size": True},
        {"local_attn_size": -1},
        {"unheard_of": 1},
        {"dim": "wide"},
        {"model_type": "i2v"},
    ],
)
def test_another_model_is_refused(folder: Path, tmp_path: Path, changed: dict[str, object]) -> None:
    with_config(folder, tmp_path, **changed)
    with pytest.raises(UserError) as error:
        open_checkpoint(tmp_path)
    assert "config.json" in error.value.what


def with_config(folder: Path, other: Path, **changed: object) -> None:
    """The checkpoint of a folder in another one, with changes to its config."""
    values = json.loads((folder / "config.json").read_text()) | changed
    (other / "config.json").write_text(json.dumps(values))
    weights = "diffusion_pytorch_model.safetensors"
    (other / weights).symlink_to(folder / weights)
