import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cli.conftest import refused
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME

Dump = Callable[..., tuple[object, ...]]
KEY = "transformer.blocks.1.attn.q_proj.weight"


def change_weights(checkpoint: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = checkpoint / "transformer" / WEIGHTS_NAME
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def refused_without_a_trace(arguments: tuple[object, ...], out: Path) -> dict[str, str]:
    """The message of a dump that never began: nothing lies where it was to go."""
    parts = refused(*arguments)
    assert not out.exists()
    return parts


def test_truncated_weights_are_refused_by_file(dump: Dump, checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "vae" / WEIGHTS_NAME
    file.write_bytes(file.read_bytes()[:-1000])
    parts = refused_without_a_trace(dump(checkpoint=checkpoint), tmp_path / "out")
    assert parts["what"] == f"{file}: cannot be read as safetensors"


def test_a_weight_of_another_shape_is_named_with_both_shapes(dump: Dump, checkpoint: Path, tmp_path: Path) -> None:
    change_weights(checkpoint, lambda weights: weights.update({KEY: weights[KEY][:32].contiguous()}))
    parts = refused_without_a_trace(dump(checkpoint=checkpoint), tmp_path / "out")
    assert parts["found"] == f"1 misshapen: {KEY} [32, 64], not [64, 64]"


def test_missing_and_extra_weights_are_named(dump: Dump, checkpoint: Path, tmp_path: Path) -> None:
    change_weights(checkpoint, lambda weights: weights.update({f"{KEY}_old": weights.pop(KEY)}))
    parts = refused_without_a_trace(dump(checkpoint=checkpoint), tmp_path / "out")
    assert parts["found"] == f"1 missing: {KEY}; 1 extra: {KEY}_old"


def test_weights_that_are_nan_are_named(dump: Dump, checkpoint: Path, tmp_path: Path) -> None:
    change_weights(checkpoint, lambda weights: weights[KEY][0, 0].fill_(float("nan")))
    parts = refused_without_a_trace(dump(checkpoint=checkpoint), tmp_path / "out")
    assert parts["found"] == KEY


def test_an_unknown_key_of_a_config_is_named(dump: Dump, checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_experts": 8}))
    parts = refused_without_a_trace(dump(checkpoint=checkpoint), tmp_path / "out")
    assert parts["found"] == "n_experts"


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    assert refused("info", tmp_path)["found"] == "an empty folder"


def test_a_hub_id_without_a_revision_is_refused() -> None:
    assert "pin the revision" in refused("info", "Overworld/Waypoint-1-Small")["do"]
