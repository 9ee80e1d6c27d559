"""FastVideo's causal Wan: where it is absent; and against what Self-Forcing computed (fixtures/golden/causal-wan)."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from waypoint_parity.candidate.causal_wan_fastvideo import source
from waypoint_parity.candidate.causal_wan_fastvideo.adapter import CausalWanFastVideoAdapter
from waypoint_parity.candidate.wan_fastvideo.source import PACKAGE
from waypoint_parity.fixtures.golden_causal_wan import GOLDEN, shown
from waypoint_parity.fixtures.tiny_causal_wan import write_causal_wan
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import expected_keys, run
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.harness.run.taps import Observation, Taps

# What it computes in fp32 of the timestep, where Self-Forcing has fp64; and all else.
TIME_BOUND, BOUND = 1e-5, 5e-6


def is_there() -> bool:
    """Whether FastVideo is there, at the revision that has this model."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        return False
    return source.TESTED.is_in(Path(found.origin).parent)


there = pytest.mark.skipif(not is_there(), reason=f"needs FastVideo {source.TESTED.revision[:7]} on PYTHONPATH")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_causal_wan(tmp_path_factory.mktemp("causal") / "tiny"))


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return read_scenario(GOLDEN / "scenario.safetensors")


def build(checkpoint: Checkpoint, *options: str) -> CausalWanFastVideoAdapter:
    return CausalWanFastVideoAdapter(checkpoint, Numerics(torch.float32, torch.device("cpu"), options=options))


def test_an_absent_package_is_named_with_its_revision(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PACKAGE", "fastvideo_of_another_name")
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert source.TESTED.revision in error.value.expected
    assert source.TESTED.revision in error.value.do


def test_another_revision_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    with pytest.raises(UserError) as error:
        build(checkpoint)
    assert source.TESTED.digest in error.value.expected
    # Asked to, it is run all the same, and has not what is needed.
    with pytest.raises(UserError) as error:
        build(checkpoint, UNTESTED)
    assert "platforms" in error.value.found
    assert PACKAGE not in sys.modules


def test_it_is_driven_eagerly(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError):
        CausalWanFastVideoAdapter(checkpoint, Numerics(torch.float32, torch.device("cpu"), compiled=True))


@there
def test_every_site_agrees_with_what_was_recorded(checkpoint: Checkpoint, scenario: Scenario) -> None:
    golden = load_file(GOLDEN / "activations.safetensors")
    seen = shown(build(checkpoint), scenario, checkpoint)
    assert seen.keys() == golden.keys()
    ends = [name for name in golden if name.endswith(".ends")]
    assert all(torch.equal(seen[name], golden[name]) for name in ends)
    errors = {name: tensor_error(seen[name], golden[name]).rel_l2 for name in golden if name not in ends}
    bounds = {name: TIME_BOUND if "time_" in name else BOUND for name in errors}
    assert {name: error for name, error in errors.items() if not error <= bounds[name]} == {}
    # It is no copy of what was recorded.
    assert max(errors.values()) > 1e-6


@there
def test_every_site_of_every_pass_is_shown(checkpoint: Checkpoint, scenario: Scenario) -> None:
    keys, adapter = [], build(checkpoint)
    with Taps(adapter.sites(), lambda seen: keys.append(seen.key), replaces=False) as taps:
        run(adapter, scenario, checkpoint, taps)
    assert keys == list(expected_keys(scenario, checkpoint))


@there
@pytest.mark.parametrize("site", ["kv_cache.layers.0.kv", "blocks.0.self_attn.window"])
def test_what_is_put_in_a_windows_place_is_what_goes_on(checkpoint: Checkpoint, scenario: Scenario, site: str) -> None:
    left: list[float] = []

    def put(seen: Observation) -> torch.Tensor | None:
        if seen.key.site == "blocks.0.self_attn.window" and seen.key.at == (1, "denoise", 0):
            left.extend(seen.tensor[:, :, :2].flatten().tolist())
        return torch.zeros_like(seen.tensor) if seen.key[:4] == (0, "clean", 0, site) else None

    adapter = build(checkpoint)
    with Taps(adapter.sites(), put) as taps:
        run(adapter, scenario, checkpoint, taps)
    assert taps.refused == set()
    assert left
    assert not any(left)
