import os
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import PARTS, refused, run, script
from tests.harness.text_encoder import write_text_encoder
from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Inputs
from waypoint_parity.harness.run.scenario import read_scenario


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As wide as the tiny checkpoint's prompt."""
    return write_text_encoder(tmp_path_factory.mktemp("text") / "encoder", width=32)


def test_a_text_is_encoded_into_a_scenario_and_its_statistics_are_shown(
    tiny_folder: Path, encoder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "town.safetensors"
    inputs = ("--checkpoint", tiny_folder, "--out", file, "--frames", 1, "--text-encoder", encoder)
    made = run("scenario", "make", *inputs, "--prompt", "a walk through the old town")
    assert made.code == 0, made
    prompt = Inputs(read_scenario(file)).prompt
    assert prompt is not None
    assert prompt.embedding.shape == (1, 512, 32)
    assert prompt.pad_mask.sum() == 505
    assert prompt.embedding[prompt.pad_mask].count_nonzero() == 0
    values = prompt.embedding.double()
    numbers = {"mean": values.mean(), "std": values.std(correction=0), "min": values.min(), "max": values.max()}
    statistics = ", ".join(f"{name} {value.item():.6g}" for name, value in numbers.items())
    assert f"  prompt           {statistics}, 98.6% padded" in made.out
    assert run("scenario", "show", file).out == made.out


def test_the_length_of_the_prompt_may_be_given(tiny_folder: Path, encoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "town.safetensors"
    inputs = ("--checkpoint", tiny_folder, "--out", file, "--frames", 1, "--text-encoder", encoder)
    assert run("scenario", "make", *inputs, "--prompt", "the town", "--prompt-tokens", 8).code == 0
    mask = read_scenario(file).get("prompt_pad_mask")
    assert mask is not None
    assert mask.equal(torch.tensor([[False] * 3 + [True] * 5]))


def test_a_prompt_that_does_not_suit_the_checkpoint_is_refused(encoder: Path, tmp_path: Path) -> None:
    given = ("--out", tmp_path / "town.safetensors", "--prompt", "the town", "--text-encoder", encoder)
    wider = write_checkpoint(tmp_path / "wider", prompt_embedding_dim=64)
    parts = refused("scenario", "make", "--checkpoint", wider, *given)
    assert "prompt_emb [1, 512, 32]" in parts["found"]
    without = write_checkpoint(tmp_path / "without", prompt_conditioning=None)
    parts = refused("scenario", "make", "--checkpoint", without, *given)
    assert (parts["found"], parts["expected"]) == ("a prompt", "no prompt")


def test_without_the_extra_the_line_that_installs_it_is_given(tiny_folder: Path, tmp_path: Path) -> None:
    """A module of the same name that cannot be imported lies before the real one."""
    (tmp_path / "transformers.py").write_text("raise ImportError('No module named transformers')")
    inputs = ("--checkpoint", tiny_folder, "--out", tmp_path / "town.safetensors", "--prompt", "the town")
    outcome = script("scenario", "make", *inputs, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    message = PARTS.fullmatch(outcome.err)
    assert (outcome.code, bool(message)) == (2, True), outcome
    assert message is not None
    assert "pip install 'waypoint-parity[prompt]'" in message["do"]


def test_a_text_encoder_without_a_text_is_refused(tiny_folder: Path, encoder: Path, tmp_path: Path) -> None:
    inputs = ("--checkpoint", tiny_folder, "--out", tmp_path / "town.safetensors", "--text-encoder", encoder)
    assert "--prompt" in refused("scenario", "make", *inputs)["do"]
