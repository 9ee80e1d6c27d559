"""Checkpoints of Wan: two layouts, one model; names both ways."""

import json
from pathlib import Path

import pytest

from waypoint_parity.fixtures.tiny_wan import TRANSFORMER, write_wan
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.config import WanAutoencoder, WanGeometry, WanTransformer, diffusers_configs
from waypoint_parity.harness.families.wan.family import FAMILY
from waypoint_parity.harness.families.wan.names import to_diffusers, to_official
from waypoint_parity.harness.run.family import family_in

GEOMETRY = WanGeometry(WanTransformer(**TRANSFORMER), WanAutoencoder(base_dim=8))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wan(tmp_path_factory.mktemp("wan") / "official")


@pytest.fixture(scope="module")
def diffused(official: Path) -> Path:
    folder = official.with_name("diffusers")
    convert(open_checkpoint(official), "diffusers", folder)
    return folder


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_every_name_goes_both_ways(component: str) -> None:
    keys = FAMILY.keys(component, GEOMETRY)
    there = {key: to_diffusers(component, key) for key in keys}
    assert len(set(there.values())) == len(keys)
    assert {key: to_official(component, name) for key, name in there.items()} == {key: key for key in keys}


def test_names_and_shapes_are_those_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    classes = {"transformer": diffusers.WanTransformer3DModel, "vae": diffusers.AutoencoderKLWan}
    for component, values in json.loads(json.dumps(diffusers_configs(GEOMETRY))).items():
        model = classes[component](**{key: value for key, value in values.items() if key[0] != "_"})
        theirs = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        ours = FAMILY.keys(component, GEOMETRY)
        assert {to_diffusers(component, key): shape for key, shape in ours.items()} == theirs


def test_the_affine_norm_is_the_third_here_and_the_second_there() -> None:
    assert to_diffusers("transformer", "blocks.7.norm3.weight") == "blocks.7.norm2.weight"
    assert to_diffusers("transformer", "blocks.7.norm2") == "blocks.7.norm3"


def test_both_layouts_are_recognised(official: Path, diffused: Path) -> None:
    for folder, layout in ((official, "official"), (diffused, "diffusers")):
        assert family_in(folder) is FAMILY
        assert FAMILY.layout_of(folder) == layout


def test_a_conversion_and_its_way_back_keep_every_bit(official: Path, diffused: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(diffused), "official", tmp_path / "again")
    digests = {open_checkpoint(folder).digest for folder in (official, diffused, tmp_path / "again")}
    assert len(digests) == 1
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(
        (official / "config.json").read_text()
    )


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("transformer", "image_dim", 1280),
        ("transformer", "qk_norm", None),
        ("transformer", "patch_size", [1, 4, 4]),
        ("transformer", "unheard_of", 1),
        ("transformer", "ffn_dim", "wide"),
        ("vae", "is_residual", True),
        ("vae", "latents_std", [1.0]),
    ],
)
def test_another_model_is_refused(diffused: Path, tmp_path: Path, file: str, key: str, value: object) -> None:
    for part in ("transformer", "vae"):
        (tmp_path / part).mkdir()
        values = json.loads((diffused / part / "config.json").read_text())
        values |= {key: value} if part == file else {}
        (tmp_path / part / "config.json").write_text(json.dumps(values))
        weights = "diffusion_pytorch_model.safetensors"
        (tmp_path / part / weights).symlink_to(diffused / part / weights)
    with pytest.raises(UserError) as error:
        open_checkpoint(tmp_path)
    assert f"{file}/config.json" in error.value.what


def test_image_to_video_is_refused(official: Path, tmp_path: Path) -> None:
    for file in official.iterdir():
        (tmp_path / file.name).symlink_to(file)
    values = json.loads((official / "config.json").read_text()) | {"model_type": "i2v"}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="i2v"):
        open_checkpoint(tmp_path)
