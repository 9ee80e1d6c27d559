import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from harness.adapter import Numerics
from harness.checkpoint import Checkpoint
from harness.dump import TENSORS_NAME, DumpWriter, describe_run, expected_keys
from harness.errors import UserError
from harness.keys import Key
from harness.recorder import Observation, Recorder
from harness.records import MANIFEST_NAME, RECORDS_NAME, frame_path, read_manifest, read_records
from harness.registry import find
from harness.scenario import IMAGE_SHAPE, Scenario
from harness.session import run
from harness.statistics import summarise
from tests.harness.observations import LATENT, key, manifest, normal, record, write_dump

FRAME = Key(0, "decode", 0, "frame")


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def observed(tensor: torch.Tensor, at: Key = LATENT) -> Observation:
    return Observation(at, 0.5, tensor)


def test_a_record_says_what_was_seen(tmp_path: Path) -> None:
    tensor = normal(2, 3).bfloat16()
    found = record(tmp_path / "dump", tensor)
    expected = summarise(tensor)
    assert (found.key, found.shape, found.dtype, found.sigma) == (LATENT, [2, 3], "bfloat16", 1.0)
    assert (found.mean, found.std, found.rms, found.sample) == (
        expected.mean,
        expected.std,
        expected.rms,
        expected.sample,
    )
    assert found.projection().tobytes() == expected.sketch


def test_a_digest_is_that_of_the_values_in_their_order(tmp_path: Path) -> None:
    tensor = normal(4, 6)
    same = record(tmp_path / "same", tensor.T.contiguous().T).digest
    assert record(tmp_path / "plain", tensor).digest == same
    assert record(tmp_path / "transposed", tensor.T).digest != same
    assert record(tmp_path / "one bit", tensor * (1 + 2**-23)).digest != same


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float16, torch.float32])
def test_a_tensor_of_any_dtype_can_be_recorded(tmp_path: Path, dtype: torch.dtype) -> None:
    found = record(tmp_path / "dump", torch.ones(3, dtype=dtype))
    assert (found.dtype, found.mean, found.std) == (str(dtype).removeprefix("torch."), 1.0, 0.0)


def test_records_are_written_pass_by_pass_in_execution_order(tmp_path: Path) -> None:
    with DumpWriter(tmp_path / "dump", manifest()) as writer:
        for step in range(3):
            for site in ("patchify", "velocity"):
                writer.observe(observed(normal(4), key(site, step=step)))
            writer.end_pass()
    order = [(found.step, found.site) for found in read_records(tmp_path / "dump")]
    assert order == [(step, site) for step in range(3) for site in ("patchify", "velocity")]


def test_the_manifest_is_complete_only_after_the_last_record(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    with DumpWriter(folder, manifest(expected=1)) as writer:
        writer.observe(observed(normal(4)))
        writer.end_pass()
        with pytest.raises(UserError, match="incomplete"):
            read_manifest(folder)
    found = read_manifest(folder)
    assert (found.complete, found.observed, found.expected) == (True, 1, 1)
    assert found.seconds > 0
    assert files_in(folder) == {MANIFEST_NAME, RECORDS_NAME}


def test_a_run_that_fails_leaves_an_incomplete_dump(tmp_path: Path) -> None:
    def fail() -> None:
        with DumpWriter(tmp_path / "dump", manifest()) as writer:
            writer.observe(observed(normal(4)))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with pytest.raises(UserError, match="incomplete"):
        read_manifest(tmp_path / "dump")


def test_a_tensor_that_is_reused_after_it_was_observed_leaves_the_record_right(tmp_path: Path) -> None:
    reused = normal(4)
    mean = summarise(reused).mean
    with DumpWriter(tmp_path / "dump", manifest(), keep=["*"]) as writer:
        writer.observe(observed(reused))
        reused.zero_()
    assert next(read_records(tmp_path / "dump")).mean == mean
    assert load_file(tmp_path / "dump" / TENSORS_NAME)[str(LATENT)].any()


def test_full_tensors_are_kept_where_asked_for(tmp_path: Path) -> None:
    seen = {key("velocity"): normal(2, 3), key("latent"): normal(2, 3, seed=1).T, key("out_norm"): normal(1)}
    with DumpWriter(tmp_path / "dump", manifest(), keep=["v*", "latent"]) as writer:
        for at, tensor in seen.items():
            writer.observe(observed(tensor, at))
    kept = load_file(tmp_path / "dump" / TENSORS_NAME)
    assert kept.keys() == {"f0/denoise0/velocity", "f0/denoise0/latent"}
    assert kept["f0/denoise0/latent"].equal(seen[key("latent")])


def test_frames_are_kept_without_loss(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, IMAGE_SHAPE, dtype=torch.uint8)
    folder = write_dump(tmp_path / "dump", [(FRAME, pixels)])
    with Image.open(frame_path(folder, 0)) as image:
        assert np.array_equal(np.asarray(image), pixels.numpy())


def test_an_earlier_dump_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", [(FRAME, torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))])
    write_dump(folder, [(LATENT, normal(4))])
    assert files_in(folder) == {MANIFEST_NAME, RECORDS_NAME}


@pytest.mark.parametrize("content", ["notes", '{"schema": "another tool\'s"}', '{"source": "a golden pack"}'])
def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path, content: str) -> None:
    """A manifest.json alone makes no dump: other tools, and the golden packs, have one too."""
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(UserError, match="is not empty"):
        DumpWriter(tmp_path, manifest())
    assert (tmp_path / MANIFEST_NAME).read_text() == content


def test_a_folder_that_cannot_be_made_is_the_callers_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        DumpWriter(tmp_path / "file" / "dump", manifest())


@pytest.fixture(scope="module")
def described(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A dump of the reference, as the command line makes it."""
    folder = tmp_path_factory.mktemp("dumps") / "reference"
    adapter = find("eager")(tiny, fp32_on_cpu)
    run_manifest = describe_run("eager", adapter, fp32_on_cpu, tiny, tiny_scenario)
    with DumpWriter(folder, run_manifest) as writer, Recorder(adapter.sites(), writer) as recorder:
        run(adapter, tiny_scenario, tiny.transformer, recorder)
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
    expected = list(expected_keys(tiny, tiny_scenario))
    found = [record.key for record in read_records(described)]
    assert len(found) == len(set(found)) == read_manifest(described).expected == len(expected)
    assert set(found) == set(expected)
    passes = [(at.frame, at.phase, at.step) for at in found]
    assert passes == [(at.frame, at.phase, at.step) for at in expected]


def test_an_image_and_a_prompt_add_their_passes(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    seeded = dataclasses.replace(tiny_scenario, image=torch.zeros(IMAGE_SHAPE, dtype=torch.uint8))
    phases = [at.phase for at in expected_keys(tiny, seeded)]
    assert list(dict.fromkeys(phases)) == ["prompt", "image", "denoise", "cache", "decode"]
    bare = dataclasses.replace(tiny_scenario, prompt_emb=None, prompt_pad_mask=None)
    assert "prompt" not in {at.phase for at in expected_keys(tiny, bare)}


def test_a_dump_has_no_bare_nan(described: Path, tmp_path: Path) -> None:
    folder = write_dump(tmp_path / "dump", [(LATENT, torch.full((4,), torch.nan))])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for line in (folder / RECORDS_NAME).read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["mean"] is None
