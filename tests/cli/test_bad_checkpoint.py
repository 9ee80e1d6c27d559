import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cli.conftest import refused, run
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


def in_fp8_with_scales(weights: dict[str, Tensor]) -> None:
    weights[KEY] = weights[KEY].to(torch.float8_e4m3fn)
    weights[f"{KEY}_scale"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (in_fp8_with_scales, f"{KEY}_scale"),
        (lambda weights: weights.update({KEY: weights[KEY].to(torch.int8)}), KEY),
        (lambda weights: weights.update({KEY: weights[KEY].to(torch.complex64)}), KEY),
    ],
    ids=["fp8 with scales", "int8", "complex"],
)
@pytest.mark.parametrize("command", ["dump", "parity", "convert", "info"])
def test_weights_that_are_codes_are_refused_by_every_command(
    checkpoint: Path,
    scenario_file: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], object],
    named: str,
    command: str,
) -> None:
    change_weights(checkpoint, change)
    if command == "info":
        outcome = run("info", checkpoint)
        assert (outcome.code, outcome.err) == (1, "")
        assert named in outcome.out.partition("not stored as plain numbers")[2]
        return
    inputs = ("--checkpoint", checkpoint, "--scenario", scenario_file)
    given = {"dump": ("eager", *inputs), "parity": inputs, "convert": (checkpoint, "--to", "package")}[command]
    assert named in refused_without_a_trace((command, *given, "--out", tmp_path / "out"), tmp_path / "out")["found"]


def test_plain_fp8_and_ties_left_out_are_run_and_told(dump: Dump, checkpoint: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights[KEY] = weights[KEY].to(torch.float8_e4m3fn)
        del weights["transformer.blocks.2.cond_head.cond_proj.3.weight"]

    change_weights(checkpoint, change)
    assert run(*dump(checkpoint=checkpoint)).code == 0
    outcome = run("info", checkpoint)
    assert outcome.code == 0
    assert "1 keys left out, which share the tensor of another: transformer.blocks.2.cond_head" in outcome.out


def test_a_file_is_no_checkpoint(scenario_file: Path) -> None:
    assert refused("info", scenario_file)["found"] == "a file"


def test_a_message_is_four_lines_whatever_a_file_brings_into_it(dump: Dump, checkpoint: Path) -> None:
    change_weights(checkpoint, lambda weights: weights.update({"a\nb\x1b[31m": weights[KEY].clone()}))
    assert refused(*dump(checkpoint=checkpoint))["found"] == "1 extra: a b [31m"
