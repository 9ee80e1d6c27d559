import json
from pathlib import Path

import pytest
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE, schedule
from waypoint_parity.harness.record.records import MANIFEST_NAME, read_manifest, read_records
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import is_input
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys, run
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
    expected = list(expected_keys(tiny_scenario, tiny, optional=VISIBLE))
    found = [record.key for record in read_records(described)]
    assert len(found) == len(set(found)) == read_manifest(described).expected == len(expected)
    assert set(found) == set(expected)
    assert [key.at for key in found] == [key.at for key in expected]


def test_an_optional_site_is_expected_where_the_implementation_has_it(
    tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    required, everything = (list(expected_keys(tiny_scenario, tiny, optional=sites)) for sites in ((), VISIBLE))
    assert [at for at in everything if not tiny.family.sites.is_optional(at.site)] == required
    assert sorted({at.site for at in everything if tiny.family.sites.is_optional(at.site)}) == VISIBLE


def test_an_image_and_a_prompt_add_their_passes(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    seeded = tiny_scenario.with_tensors(image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))
    phases = [at.phase for at in expected_keys(seeded, tiny)]
    assert list(dict.fromkeys(phases)) == ["prompt", "image", "denoise", "cache", "decode"]
    bare = tiny_scenario.with_tensors(prompt_emb=None, prompt_pad_mask=None)
    assert "prompt" not in {at.phase for at in expected_keys(bare, tiny)}


def test_a_selection_is_all_that_is_recorded_and_expected(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path
) -> None:
    selection = Selection(sites=("latent", "*.attn"), units=(1,), steps=(0,), stepped=("denoise",))
    adapter = find("eager")(tiny, fp32_on_cpu)
    run_manifest = describe_run("eager", adapter, fp32_on_cpu, tiny, tiny_scenario, selection=selection)
    with DumpWriter(tmp_path, run_manifest) as writer, recording(adapter.sites(), writer, selection) as recorder:
        run(adapter, tiny_scenario, tiny, recorder)
    found, everything = read_manifest(tmp_path), list(expected_keys(tiny_scenario, tiny, optional=VISIBLE))
    keys = [record.key for record in read_records(tmp_path)]
    assert found.selection == selection
    assert set(keys) == {at for at in everything if selection.takes(at)}
    assert len(keys) == found.expected == found.observed < len(everything)
    assert {at.unit for at in keys if not is_input(at.site)} == {1}


def test_a_manifest_tells_which_sites_a_right_run_shows_and_in_which_units(
    described: Path, tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    found = read_manifest(described)
    assert found.passes is not None
    units = tiny_scenario.units
    assert [(at.phase, at.step, at.units) for at in found.passes] == [
        ("prompt", 0, [(0, 1)]),
        *(("denoise", step, [(0, units)]) for step in range(2)),
        ("cache", 0, [(0, units)]),
        ("decode", 0, [(0, units)]),
    ]
    prompt, *every_unit = found.passes
    assert prompt.sites == ["input.prompt_emb", "input.prompt_pad_mask"]
    assert (found.family, found.units, found.selection) == ("waypoint", units, None)
    assert found.expected == units * sum(len(at.sites) for at in every_unit) + len(prompt.sites)


def test_a_manifest_has_a_digest_of_every_input(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    def digests(scenario: Scenario) -> dict[str, str]:
        inputs = describe_run("eager", find("eager")(tiny, fp32_on_cpu), fp32_on_cpu, tiny, scenario).inputs
        assert inputs is not None
        return inputs

    given = digests(tiny_scenario)
    assert given.keys() == tiny_scenario.tensors.keys() | {"sigmas"}
    louder = digests(tiny_scenario.with_tensors(noise=tiny_scenario["noise"] * 2))
    assert {name for name in given if given[name] != louder[name]} == {"noise"}
    spelt_out = digests(tiny_scenario.with_tensors(sigmas=schedule(tiny_scenario, tiny.geometry.transformer)))
    assert spelt_out == given


def test_a_manifest_of_an_engine_that_knows_less_is_read(described: Path, tmp_path: Path) -> None:
    later = {"units", "passes", "selection", "inputs", "observer", "caches"}
    fields = json.loads((described / MANIFEST_NAME).read_bytes())
    assert fields.keys() > later
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({name: fields[name] for name in fields if name not in later}))
    assert read_manifest(tmp_path).passes is None


def test_what_an_implementation_says_of_its_process_takes_the_place_of_ours(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = find("eager")(tiny, fp32_on_cpu)
    monkeypatch.setattr(adapter, "describe", lambda: {"version": "1", "torch": "2.10.0", "threads": "all of them"})
    found = describe_run("elsewhere", adapter, fp32_on_cpu, tiny, tiny_scenario)
    assert (found.torch, found.threads) == ("2.10.0", torch.get_num_threads())
    assert found.description == {"version": "1", "threads": "all of them"}
