"""`parity --component`: what a porter starts with, before there is a pipeline."""

import json
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import refused, run
from waypoint_parity.harness.compare.tensor_error import CLOSE
from waypoint_parity.harness.judge.component import would_pass

# Of the decoder alone, without a session; the one that the page about engines shows, and what may be wrong with it.
PORT = """
from waypoint_parity.fixtures.examples.my_vae import MyVae as Decoder


class Louder(Decoder):
    def call(self, unit, at, inputs):
        super().call(unit, at, {name: value * 1.001 for name, value in inputs.items()})


class Whole(Decoder):
    component = None
"""


@pytest.fixture
def port(tmp_path: Path) -> Path:
    file = tmp_path / "port.py"
    file.write_text(PORT)
    return file


@pytest.fixture
def given(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--units", 1, "--out", tmp_path / "out")


@pytest.mark.parametrize("component", ["transformer", "vae"])
def test_a_component_is_held_against_the_reference_site_by_site(
    given: tuple[object, ...], tmp_path: Path, component: str
) -> None:
    outcome = run("parity", "--component", component, *given)
    assert outcome.code == 0, outcome
    (file,) = (tmp_path / "out").glob(f"{component}.*.json")
    found = json.loads(file.read_bytes())
    sites = {site["site"] for site in found["sites"]}
    assert {site.split(".")[0] for site in sites} >= ({"decoder", "frame"} if component == "vae" else {"transformer"})
    assert ("velocity" in sites) == (component == "transformer")
    assert found["missing"] == found["unlike"] == []
    assert 0 < max(site["excess"] for site in found["sites"]) < 1


def test_an_adapter_of_one_component_needs_nothing_else(given: tuple[object, ...], port: Path, tmp_path: Path) -> None:
    words = ("parity", "--component", "vae", *given)
    assert run(*words, "--candidate", f"{port}:Decoder").code == 1, "most of its sites are missing"
    outcome = run(*words, "--candidate", f"{port}:Decoder", "--allow-missing", "*")
    assert outcome.code == 0, outcome
    outcome = run(*words, "--candidate", f"{port}:Louder", "--allow-missing", "*")
    assert outcome.code == 1, outcome
    (file,) = (tmp_path / "out").glob("vae.*.json")
    first, second = json.loads(file.read_bytes())["sites"]
    assert first["site"] == "decoder.conv_in"
    assert first["verdict"] == "DIVERGED"
    assert first["error"] > first["bound"]
    assert first["rtol"] > 1e-4, "a part in a thousand, but for the bias"
    # It is judged by what it was given, and that was too loud already.
    assert second["verdict"] in ("IDENTICAL", "WITHIN_NOISE")


@pytest.mark.parametrize(
    ("component", "candidate"),
    [("transformer", "Decoder"), ("vae", "Whole"), ("text_encoder", "Decoder"), ("vae", "Absent")],
)
def test_what_cannot_run_the_component_alone_is_refused(
    given: tuple[object, ...], port: Path, component: str, candidate: str
) -> None:
    message = refused("parity", "--component", component, *given, "--candidate", f"{port}:{candidate}")
    assert component in message["what"] or candidate in message["what"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_tolerances_are_the_smallest_that_assert_close_takes(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    expected = torch.randn(1000, generator=draw).to(dtype)
    actual = (expected.double() * (1 + 0.1 * torch.rand(1000, generator=draw))).to(dtype)
    rtol, atol = CLOSE[dtype]
    needed = would_pass(actual, expected)
    for given in ({"atol": needed[0] * 1.05, "rtol": rtol}, {"atol": atol, "rtol": needed[1] * 1.05}):
        torch.testing.assert_close(actual, expected, **given)
    for given in ({"atol": needed[0] * 0.95, "rtol": rtol}, {"atol": atol, "rtol": needed[1] * 0.95}):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(actual, expected, **given)
    assert would_pass(expected, expected) == (0.0, 0.0)
