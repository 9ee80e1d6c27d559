import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.cli.conftest import refused, run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME

COPY = "transformer.blocks.2.cond_head.cond_proj.3.weight"


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    file = folder / "transformer" / WEIGHTS_NAME
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def test_a_sound_checkpoint_is_inventoried_by_module(tiny_folder: Path, tiny: Checkpoint) -> None:
    outcome = run("info", tiny_folder, "--implementation", "candidate")
    assert (outcome.code, outcome.err) == (0, "")
    count = len(tiny.weights("transformer"))
    parameters = sum(tensor.numel() for tensor in tiny.weights("transformer").values())
    assert re.search(
        rf"transformer +{count} tensors +{parameters:,} parameters +{4 * parameters:,} bytes  F32", outcome.out
    )
    assert re.search(r"transformer\.blocks\.\*\.attn +15 tensors", outcome.out)
    assert "transformer config beside that of candidate: 0 of" in outcome.out
    assert outcome.out.splitlines()[-1].startswith("sound")


def test_every_key_is_listed_when_asked_for(tiny_folder: Path, tiny: Checkpoint) -> None:
    outcome = run("info", tiny_folder, "--keys")
    for key, tensor in {**tiny.weights("transformer"), **tiny.weights("vae")}.items():
        line = rf"  {re.escape(key)} +{re.escape(str(list(tensor.shape)))} +F32 +{tensor.numel():,} +{tensor.nbytes:,}"
        assert re.search(line, outcome.out), key


def test_everything_wrong_is_named_and_written(checkpoint: Path, tmp_path: Path) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        for block in range(3):
            fc1 = f"transformer.blocks.{block}.mlp.fc1.weight"
            weights[fc1.replace("fc1", "fc_in")] = weights.pop(fc1)
        weights[COPY] += 1
        del weights["patchify.weight"]
        weights["unpatchify.bias"] = weights["unpatchify.bias"][:-1].clone()

    change_weights(checkpoint, change)
    outcome = run("info", checkpoint, "--implementation", "eager", "--json", tmp_path / "found.json")
    assert (outcome.code, outcome.err) == (1, "")
    assert "transformer: 1 missing: patchify.weight" in outcome.out
    assert "transformer: 1 misshapen: unpatchify.bias [3], not [4]" in outcome.out
    assert "transformer: 3 probably renamed, fc1 -> fc_in: transformer.blocks.0.mlp.fc1.weight -> " in outcome.out
    assert f"untied: 1 copies differ from those of the other blocks: {COPY}" in outcome.out
    assert "eager: cannot load it: " in outcome.out
    assert outcome.out.endswith("NOT SOUND\n")
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert (found["sound"], found["untied"]) == (False, [COPY])


def test_a_missing_shard_is_found_through_the_command(tiny_folder: Path) -> None:
    outcome = run("info", tiny_folder, "--implementation", "tests.harness.ports:MissingShard")
    assert outcome.code == 1
    place = "engine.model.blocks.1.attn.qkv.weight [128, 64]: rows 96..127 of 128"
    assert f"tests.harness.ports:MissingShard: left uninitialised: {place}" in outcome.out


def test_another_config_is_shown_differences_first(tiny_folder: Path, golden: Path) -> None:
    outcome = run("info", tiny_folder, "--against", golden / "base")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("transformer config beside that of"))
    assert lines[start + 1].split() == ["d_model", "64", "|", "128"]
    equal = next(i for i, line in enumerate(lines) if "equal: " in line)
    assert all("|" in line for line in lines[start + 1 : equal])
    assert "n_frames 64" in lines[equal]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--implementation", "nowhere"), "nowhere: no such implementation"),
        (("--implementation", "candidate+nothing"), "no such option"),
        (("--against", "nowhere"), "nowhere: no such checkpoint"),
        (("--json", "/proc/nowhere/found.json"), "/proc/nowhere/found.json: cannot be written"),
    ],
)
def test_a_wrong_call_is_refused(tiny_folder: Path, arguments: tuple[str, ...], what: str) -> None:
    assert what in refused("info", tiny_folder, *arguments)["what"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("transformer/config.json", b"{"),
        ("transformer/config.json", b'{"d_model": 64}'),
        (f"vae/{WEIGHTS_NAME}", b"\x00" * 40),
        (f"transformer/{WEIGHTS_NAME}.index.json", b'{"metadata": {}}'),
        (f"transformer/{WEIGHTS_NAME}.index.json", b'{"weight_map": {"patchify.weight": "lost.safetensors"}}'),
    ],
)
def test_what_cannot_be_read_at_all_is_unusable(checkpoint: Path, name: str, content: bytes) -> None:
    (checkpoint / name).write_bytes(content)
    refused("info", checkpoint)


def test_a_checkpoint_is_found_by_its_bare_name(tiny_folder: Path, tiny: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "official_weights").mkdir()
    (tmp_path / "official_weights" / "Waypoint-1-Tiny").symlink_to(tiny_folder)
    command = [sys.executable, "-m", "waypoint_parity", "info", "Waypoint-1-Tiny"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome
    assert "checkpoint   official_weights/Waypoint-1-Tiny" in outcome.stdout
    assert tiny.digest in outcome.stdout
