"""The official sources of Waypoint 1.5, run: they reproduce the golden packs, and the implementations here agree."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.official.test_world_engine import WORLD_ENGINE, changed, errors, final_latent, up_for_down, worst
from tests.parity.implementations import GOLDEN, Capture
from tests.reference.test_waypoint15 import (
    BF16_BOUND,
    BF16_LATENT_BOUND,
    FP32_BOUND,
    PACKS,
    Played,
    checkpoint_of,
    few,
    scenario_of,
)
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import DTYPES, Adapter, Numerics
from waypoint_parity.harness.run.scenario import Scenario, write_scenario
from waypoint_parity.harness.run.session import expected_keys, run
from waypoint_parity.harness.run.taps import recording
from waypoint_parity.reference.world_engine.autoencoders import StreamedTaehv
from waypoint_parity.reference.world_engine.block_lists import check_block_lists, read_as_masks, sees_hidden_slots
from waypoint_parity.reference.world_engine.engine import build_engine
from waypoint_parity.reference.world_engine.package import WAYPOINT_1, WAYPOINT_15, import_package, installed_release
from waypoint_parity.reference.world_engine.session import Session
from waypoint_parity.reference.world_engine.taps import Taps

pytestmark = pytest.mark.skipif(
    installed_release() is not WAYPOINT_15, reason=f"not importable: world_engine {WAYPOINT_15.name}"
)
PARITY_BOUND = 3e-6
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def second() -> Checkpoint:
    """The checkpoint of w15-base."""
    return checkpoint_of("w15-base")


@pytest.fixture(scope="module")
def adapter(second: Checkpoint) -> Adapter:
    return loaded("", second, "fp32")


def loaded(options: str, checkpoint: Checkpoint, dtype: str) -> Adapter:
    return registry.load(f"{WORLD_ENGINE}{options}", checkpoint, Numerics(DTYPES[dtype], torch.device("cpu")))


def captured(adapter: Adapter, scenario: Scenario, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of a session, by its key."""
    seen = Capture()
    with recording(adapter.sites(), seen) as recorder:
        run(adapter, scenario, checkpoint, recorder)
    return seen.tensors


@pytest.mark.parametrize("pack", PACKS)
def test_it_reproduces_a_golden_pack(pack: str) -> None:
    checkpoint, dtype = checkpoint_of(pack), "bf16" if pack == "w15-bf16" else "fp32"
    seen = captured(loaded("", checkpoint, dtype), scenario_of(pack), checkpoint)
    played = Played(pack, {f"f{name.removeprefix('u')}": tensor for name, tensor in seen.items()})
    found = played.errors
    first = max(found, key=lambda name: found[name])
    print(f"{pack}: {len(found)} tensors, worst {found[first]:.2e} at {first}")
    if dtype == "bf16":
        bounds = {name: BF16_LATENT_BOUND if name.endswith("/latent") else BF16_BOUND for name in found}
    else:
        bounds = dict.fromkeys(found, FP32_BOUND)
    assert {name: error for name, error in found.items() if not error <= bounds[name]} == {}
    assert [name for name in found if name.endswith(".written") and found[name] > 0] == []
    if dtype == "fp32":
        assert played.pictures
        for name, (picture, expected) in played.pictures.items():
            assert int((picture.int() - expected.int()).abs().max()) <= 1, name


@pytest.mark.parametrize("candidate", ["eager", "candidate"])
@pytest.mark.parametrize("pack", ["w15-base", "w15-image"])
def test_parity_holds(pack: str, candidate: str, adapter: Adapter, second: Checkpoint, fp32_on_cpu: Numerics) -> None:
    # Rings of 3 and of 6 frames every 2 frames: both are full in frame 7.
    scenario = few(pack, 8 if pack == "w15-base" else 2)
    sides = Side(WORLD_ENGINE, adapter), Side(candidate, registry.load(candidate, second, fp32_on_cpu))
    comparison = lockstep(*sides, second, scenario, Judgement(fixed_tolerance(second.family, "fp32")))
    print(f"{candidate}, {pack}: {comparison.compared} observations, worst {comparison.worst}")
    assert comparison.verdict is Verdict.WITHIN_NOISE
    assert comparison.compared == comparison.expected
    assert comparison.worst is not None
    assert comparison.worst.distance <= PARITY_BOUND


def test_the_command_finds_the_same_mathematics(tmp_path: Path) -> None:
    write_scenario(few("w15-image", 1), tmp_path / "scenario.safetensors")
    sides = ("--reference", WORLD_ENGINE, "--candidate", "eager", "--checkpoint", str(GOLDEN / "w15-base"))
    given = ("--as-recorded", "--scenario", str(tmp_path / "scenario.safetensors"), "--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "waypoint_parity", "parity", *sides, *given]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "out" / "cells").iterdir()
    found = json.loads((folder / "comparison.json").read_text())
    print(found["mathematics"])
    assert found["mathematics"]["worst"] < 1e-12


def test_every_expected_site_is_shown_once(adapter: Adapter, second: Checkpoint) -> None:
    scenario = few("w15-image", 1)
    # Recorded by key: what is shown twice has calls of its own, and so keys that nobody expects.
    expected = expected_keys(scenario, second, optional=adapter.sites().keys())
    assert set(captured(adapter, scenario, second)) == set(map(str, expected))


def test_what_is_exchanged_at_a_probe_is_computed_with(adapter: Adapter, second: Checkpoint) -> None:
    scenario = few("w15-base", 2)
    right = final_latent(adapter, scenario, second)
    # Not part of this session, or behind its last latent.
    aside = {"input.prompt_emb", "input.prompt_pad_mask", "input.image", "frame"}
    sites = {name: site for name, site in adapter.sites().items() if site.is_patchable and name not in aside}
    probes = {name: site.module for name, site in sites.items() if isinstance(site.module, nn.Identity)}
    deaf = []
    assert {"transformer.rope_angles", "input.timestamp", "kv_cache.layers.3.visible"} <= probes.keys()
    for name in probes:
        change = up_for_down if name == "input.button" else changed
        exchange = probes[name].register_forward_hook(lambda module, inputs, output, change=change: change(output))
        deaf += [name] if torch.equal(final_latent(adapter, scenario, second), right) else []
        exchange.remove()
    assert deaf == []
    assert torch.equal(final_latent(adapter, scenario, second), right)


def test_hidden_slots_are_seen_by_eager_attention_and_not_after_the_repair(second: Checkpoint) -> None:
    engine, session, taps = driven(second)
    assert sees_hidden_slots(engine, session.denoise_once)
    read_as_masks(engine.kv_cache, taps.show_visible)
    assert not sees_hidden_slots(engine, session.denoise_once)


def test_hidden_slots_that_are_seen_all_the_same_are_refused(second: Checkpoint) -> None:
    engine, session, _ = driven(second)
    with pytest.raises(UserError, match="hidden or were never written"):
        check_block_lists(engine, session.denoise_once)
    with pytest.raises(UserError, match="hidden or were never written"):
        check_block_lists(
            engine,
            session.denoise_once,
            lambda: read_as_masks(engine.kv_cache, lambda layer, tokens: torch.ones_like(tokens)),
        )


def driven(checkpoint: Checkpoint) -> tuple[Any, Session, Taps]:
    """The package's engine as it is, and what drives it."""
    package = import_package(checkpoint.geometry.transformer.model_type)
    numerics = Numerics(torch.float32, torch.device("cpu"))
    engine, conditioning = build_engine(package, checkpoint, numerics, patched=False)
    taps = Taps(engine, inside=True)
    taps.tap_masks()
    return engine, Session(package, engine, taps, conditioning, StreamedTaehv(engine.vae), compiled=False), taps


def test_the_inference_patches_compute_the_same_in_bf16(second: Checkpoint) -> None:
    scenario = few("w15-base", 2)
    raw, patched = (captured(loaded(options, second, "bf16"), scenario, second) for options in ("", "+patched"))
    assert patched.keys() == raw.keys()
    found = errors(patched, {name: tensor for name, tensor in raw.items() if not name.endswith(".written")})
    print(f"raw against patched: {found[worst(found)].rel_l2:.2e} at {worst(found)}")
    assert found[worst(found)].rel_l2 <= BF16_BOUND


def test_a_checkpoint_of_waypoint_1_is_refused(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError, match="not the one that drives waypoint-1") as error:
        registry.load(WORLD_ENGINE, tiny, fp32_on_cpu)
    assert error.value.do.startswith(WAYPOINT_1.install)


def test_importing_and_running_leaves_the_process_as_it_was() -> None:
    """In a process of its own: here something else has long imported the package, torch's compiler and pytest."""
    script = [sys.executable, "-m", "tests.official.run_and_compare_settings"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "nothing changed", done.stdout + done.stderr
    assert done.returncode == 0
