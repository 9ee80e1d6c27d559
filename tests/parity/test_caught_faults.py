"""A deliberate change to the candidate is caught: exit code, site, frame and step are the right ones."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.comparison import Comparison, Verdict, read_comparison
from waypoint_parity.harness.run.scenario import write_scenario

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BASE = ROOT / "fixtures/golden/base"


class Caught(msgspec.Struct):
    """A finished run: how it ended, what it printed, what it wrote."""

    status: int
    printed: str
    comparison: Comparison


def write_session(folder: Path, frames: int) -> Path:
    path = folder / "session.safetensors"
    geometry = open_checkpoint(BASE).geometry
    write_scenario(make_scenario(geometry, name="session", units=frames, seed=11), path)
    return path


def run_parity(candidate: str, scenario: Path, out: Path) -> Caught:
    command = [
        sys.executable,
        "-m",
        "waypoint_parity.harness.cli.main",
        "parity",
        "--candidate",
        f"{HERE / 'faulty.py'}:{candidate}",
    ]
    sweep = ["--schedule", "checkpoint", "--seed", "11", "--prompt-mask", "zeroed", "--threads", "1"]
    files = ["--checkpoint", BASE, "--scenario", scenario, "--out", out, "--no-blame"]
    finished = subprocess.run([*command, *sweep, *files], capture_output=True, text=True, check=False)
    (comparison,) = out.glob("cells/*/comparison.json")
    return Caught(finished.returncode, finished.stdout + finished.stderr, read_comparison(comparison))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("candidate", "frames", "key", "wrong_slot"),
    [
        # Scaled by 1.001, so that its relative error is 1e-3 and nothing before it differs.
        ("VelocityScaled", 2, "u0/denoise0/velocity", []),
        ("RotationLeftOut", 2, "u0/denoise0/transformer.blocks.0.attn.q_rope", []),
        # Block 1 is the first local layer; its ring of 4 frames is full from frame 4 on.
        (
            "StaleSlotVisible",
            5,
            "u4/denoise0/kv_cache.layers.1.visible",
            ["local layer 1, frame 4: slot 0 holds frame 0, expected hidden"],
        ),
    ],
)
def test_a_fault_is_named_by_the_first_site_that_shows_it(
    candidate: str, frames: int, key: str, wrong_slot: list[str], tmp_path: Path
) -> None:
    caught = run_parity(candidate, write_session(tmp_path, frames), tmp_path / "out")
    assert caught.status == 1
    assert caught.comparison.verdict is Verdict.DIVERGED
    first = caught.comparison.first
    assert first is not None
    assert str(first.key) == key
    assert first.rel_l2 is not None
    assert first.rel_l2 > first.tolerance
    assert key in caught.printed
    assert [fault.message for fault in caught.comparison.slots[:1]] == wrong_slot


def test_a_fault_that_depends_on_one_factor_is_told_by_it(tmp_path: Path) -> None:
    scenario = write_session(tmp_path, frames=1)
    command = [
        sys.executable,
        "-m",
        "waypoint_parity.harness.cli.main",
        "parity",
        "--candidate",
        f"{HERE / 'faulty.py'}:PaddingMaskedOut",
    ]
    sweep = ["--schedule", "checkpoint", "single-step", "--prompt-mask", "none", "zeroed", "unzeroed", "--no-blame"]
    sweep += ["--no-exact"]  # twelve cells: which factor decides, tolerances tell as well
    files = ["--checkpoint", BASE, "--scenario", scenario, "--out", tmp_path / "out"]
    finished = subprocess.run([*command, *sweep, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 1, finished.stderr
    assert "8 of 12 cells fail: only with padding, at every schedule and seed" in finished.stdout


def test_a_skipped_cache_pass_is_named_by_the_first_record_that_lacks(tmp_path: Path) -> None:
    caught = run_parity("CachePassSkipped", write_session(tmp_path, frames=2), tmp_path / "out")
    assert caught.status == 1
    first = caught.comparison.first
    assert first is not None
    assert str(first.key) == "u0/cache0/input.sigma"
    assert first.verdict is Verdict.MISSING
    # What the skipped pass should have left behind is told too.
    kv = next(failure for failure in caught.comparison.failures if failure.site == "kv_cache.layers.0.kv")
    assert (kv.verdict, kv.unit, kv.phase) == (Verdict.DIVERGED, 0, "cache")
    message = "global layer 0, frame 0: slot 0 holds frame 0 as of denoise step 3, expected frame 0"
    assert caught.comparison.slots[0].message == message
