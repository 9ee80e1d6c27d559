import dataclasses
import json
from pathlib import Path

import pytest
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.record.records import MANIFEST_NAME, read_manifest, read_records
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.record.writer import DumpWriter, describe_run, expected_keys
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import is_input, is_optional
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.scenario import IMAGE_SHAPE, Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

# The optional sites of a model of three layers.
VISIBLE = [f"kv_cache.layers.{layer}.visible" for layer in range(3)]


@pytest.fixture(scope="module")
def described(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dump of the reference, as the command line makes it."""
    folder = tmp_path_factory.mktemp("dumps") / "reference"
    adapter = find("eager")(tiny, fp32_on_cpu)
    run_manifest = describe_run("eager", adapter, fp32_on_cpu, tiny, tiny_scenario)
    with DumpWriter(folder, run_manifest) as writer, recording(adapter.sites(), writer) as recorder:
        run(adapter, tiny_scenario, tiny, recorder)
    return folder


def test_a_manifest_is_the_identity_of_the_run(
    described: Path, tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    found = read_manifest(described)
    assert (found.implementation, found.numerics) == ("eager", fp32_on_cpu.to_json())
    assert (found.checkpoint_digest, found.scenario_digest) == (tiny.digest, tiny_scenario.digest)
    assert (found.sigmas, found.torch, found.threads) == (
        [1.0, 0.5, 0.0],
        str(torch.__version__),
        torch.get_num_threads(),
    )
    assert found.description["attention"]


def test_the_reference_shows_every_expected_observation_once_and_in_order(
    described: Path, tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    expected = list(expected_keys(tiny, tiny_scenario, optional=VISIBLE))
    found = [record.key for record in read_records(described)]
    assert len(found) == len(set(found)) == read_manifest(described).expected == len(expected)
    assert set(found) == set(expected)
    passes = [(at.frame, at.phase, at.step) for at in found]
    assert passes == [(at.frame, at.phase, at.step) for at in expected]


def test_an_optional_site_is_expected_where_the_implementation_has_it(
    tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    required, everything = (list(expected_keys(tiny, tiny_scenario, optional=sites)) for sites in ((), VISIBLE))
    assert [at for at in everything if not is_optional(at.site)] == required
    assert sorted({at.site for at in everything if is_optional(at.site)}) == VISIBLE


def test_an_image_and_a_prompt_add_their_passes(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    seeded = dataclasses.replace(tiny_scenario, image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))
    phases = [at.phase for at in expected_keys(tiny, seeded)]
    assert list(dict.fromkeys(phases)) == ["prompt", "image", "denoise", "cache", "decode"]
    bare = dataclasses.replace(tiny_scenario, prompt_emb=None, prompt_pad_mask=None)
    assert "prompt" not in {at.phase for at in expected_keys(tiny, bare)}


def test_a_selection_is_all_that_is_recorded_and_expected(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    selection = Selection(sites=("latent", "*.attn"), frames=(1,), steps=(0,))
    adapter = find("eager")(tiny, fp32_on_cpu)
    run_manifest = describe_run("eager", adapter, fp32_on_cpu, tiny, tiny_scenario, selection=selection)
    with DumpWriter(tmp_path, run_manifest) as writer, recording(adapter.sites(), writer, selection) as recorder:
        run(adapter, tiny_scenario, tiny, recorder)
    found, everything = read_manifest(tmp_path), list(expected_keys(tiny, tiny_scenario, optional=VISIBLE))
    keys = [record.key for record in read_records(tmp_path)]
    assert found.selection == selection
    assert set(keys) == {at for at in everything if selection.takes(at)}
    assert len(keys) == found.expected == found.observed < len(everything)
    assert {at.frame for at in keys if not is_input(at.site)} == {1}


def test_a_manifest_tells_which_sites_a_right_run_shows_and_in_which_frames(
    described: Path, tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    found = read_manifest(described)
    assert found.passes is not None
    assert list(found.passes) == ["prompt0", "denoise0", "denoise1", "cache0", "decode0"]
    assert found.passes["prompt0"] == ["input.prompt_emb", "input.prompt_pad_mask"]
    assert (found.frames, found.selection) == (tiny_scenario.units, None)
    every_frame = sum(len(sites) for name, sites in found.passes.items() if name != "prompt0")
    assert found.expected == tiny_scenario.units * every_frame + len(found.passes["prompt0"])


def test_a_manifest_has_a_digest_of_every_input(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    def digests(scenario: Scenario) -> dict[str, str]:
        inputs = describe_run("eager", find("eager")(tiny, fp32_on_cpu), fp32_on_cpu, tiny, scenario).inputs
        assert inputs is not None
        return inputs

    given = digests(tiny_scenario)
    assert given.keys() == tiny_scenario.tensors.keys() | {"sigmas"}
    louder = digests(dataclasses.replace(tiny_scenario, noise=tiny_scenario["noise"] * 2))
    assert {name for name in given if given[name] != louder[name]} == {"noise"}
    spelt_out = digests(dataclasses.replace(tiny_scenario, sigmas=schedule(tiny_scenario, tiny.geometry.transformer)))
    assert spelt_out == given


def test_a_manifest_of_an_engine_that_knows_less_is_read(described: Path, tmp_path: Path) -> None:
    later = {"frames", "passes", "selection", "inputs", "observer", "rings"}
    fields = json.loads((described / MANIFEST_NAME).read_bytes())
    assert fields.keys() > later
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({name: fields[name] for name in fields if name not in later}))
    assert read_manifest(tmp_path).passes is None
