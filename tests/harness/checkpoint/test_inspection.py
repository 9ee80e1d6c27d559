import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.inspection import Inspection, inspect_checkpoint
from waypoint_parity.harness.checkpoint.weights import WEIGHTS_NAME
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.run.adapter import Numerics

FC1 = "transformer.blocks.1.mlp.fc1.weight"
COPY = "transformer.blocks.{}.cond_head.cond_proj.{}.weight"
PORTS = "tests.harness.ports"


@pytest.fixture
def changed(tiny_folder: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Tensor]], object]], Checkpoint]:
    """The tiny checkpoint with changed weights of the transformer, opened unchecked."""

    def change_weights(change: Callable[[dict[str, Tensor]], object]) -> Checkpoint:
        folder = shutil.copytree(tiny_folder, tmp_path / "changed")
        weights = load_file(folder / "transformer" / WEIGHTS_NAME)
        change(weights)
        save_file(weights, folder / "transformer" / WEIGHTS_NAME)
        return open_checkpoint(folder, check=False)

    return change_weights


Changed = Callable[[Callable[[dict[str, Tensor]], object]], Checkpoint]


def test_a_checkpoint_is_sound_and_inventoried(base: Checkpoint) -> None:
    inspection = inspect_checkpoint(base)
    assert inspection
    assert (inspection.digest, inspection.origin) == (base.digest, base.origin)
    weights = [base.weights("transformer"), base.weights("vae")]
    for part, tensors in zip(inspection.parts, weights, strict=True):
        assert [entry.key for entry in part.tensors] == sorted(tensors)
        for entry in part.tensors:
            tensor = tensors[entry.key]
            assert (entry.shape, entry.parameters, entry.bytes) == (tensor.shape, tensor.numel(), tensor.nbytes)
            assert entry.dtype == "F32"


@pytest.mark.parametrize(
    ("dtype", "name"),
    [(torch.bfloat16, "BF16"), (torch.float64, "F64"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.bool, "BOOL")],
)
def test_bytes_are_those_of_the_stored_dtype(changed: Changed, dtype: torch.dtype, name: str) -> None:
    checkpoint = changed(lambda weights: weights.update({FC1: weights[FC1].to(dtype)}))
    stored = checkpoint.files["transformer"].stored()[FC1]
    assert (stored.dtype, stored.bytes) == (name, math.prod(stored.shape) * dtype.itemsize)


def test_everything_that_does_not_fit_is_named_at_once(changed: Changed) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        weights["somewhere.else.weight"] = weights.pop("out_norm.fc.weight")[0].clone()
        weights[FC1] = weights[FC1][:-1].contiguous()
        weights["unpatchify.bias"][0] = math.inf

    part, autoencoder = inspect_checkpoint(changed(change)).parts
    assert autoencoder
    assert not part
    assert part.missing == ["out_norm.fc.weight"]
    assert part.extra == ["somewhere.else.weight"]
    assert part.misshapen == [f"{FC1} [127, 64], not [128, 64]"]
    assert part.not_finite == ["unpatchify.bias"]
    assert part.renamed == []


def test_renamed_keys_are_paired_and_are_neither_missing_nor_extra(changed: Changed) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        for key in [key for key in weights if ".mlp.fc1." in key and "blocks" in key]:
            weights[key.replace(".mlp.fc1.", ".mlp.fc_in.")] = weights.pop(key)

    part = inspect_checkpoint(changed(change)).parts[0]
    assert not part
    assert (part.missing, part.extra) == ([], [])
    assert [(rename.expected, rename.found) for rename in part.renamed if "ctrl" not in rename.expected] == [
        (f"transformer.blocks.{i}.mlp.fc1.weight", f"transformer.blocks.{i}.mlp.fc_in.weight") for i in range(3)
    ]


def test_equal_copies_of_the_shared_matrices_are_no_fault(base: Checkpoint) -> None:
    assert inspect_checkpoint(base).untied == []


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_copy_that_differs_in_one_bit_is_named_by_block_and_matrix(changed: Changed, block: int) -> None:
    """Whichever block it is in, the first one included: most copies are taken for right."""
    odd = COPY.format(block, 4)
    checkpoint = changed(lambda weights: weights[odd].view(torch.int32)[0, 0].bitwise_xor_(1))
    assert inspect_checkpoint(checkpoint).untied == [odd]


def test_shared_matrices_that_only_block_0_has_are_named_in_every_other(changed: Changed) -> None:
    def change(weights: dict[str, Tensor]) -> None:
        for block in (1, 2):
            weights[COPY.format(block, 0)].normal_(generator=torch.Generator().manual_seed(block))

    assert inspect_checkpoint(changed(change)).untied == [COPY.format(1, 0), COPY.format(2, 0)]


def test_blocks_are_named_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "deep", n_layers=12)
    weights = load_file(folder / "transformer" / WEIGHTS_NAME)
    odd = [COPY.format(block, 5) for block in (2, 10)]
    for key in odd:
        weights[key] += 1
    save_file(weights, folder / "transformer" / WEIGHTS_NAME)
    assert inspect_checkpoint(open_checkpoint(folder)).untied == odd


@pytest.mark.parametrize("implementation", ["eager", "candidate"])
def test_our_own_implementations_fill_everything(tiny: Checkpoint, implementation: str) -> None:
    inspection = inspect_checkpoint(tiny, implementation)
    assert inspection
    assert inspection.loading is not None
    assert inspection.loading.scratch == []
    assert {compared.part for compared in inspection.loading.configs} >= {"transformer"}
    assert not any(compared.differences for compared in inspection.loading.configs)


def test_an_implementation_is_inspected_in_the_numerics_that_it_is_to_run_in(tiny: Checkpoint) -> None:
    bf16 = Numerics(torch.bfloat16, torch.device("cpu"))
    assert inspect_checkpoint(tiny, "candidate", numerics=bf16)
    refusal = inspect_checkpoint(tiny, f"{PORTS}:NeedsBfloat16").loading
    assert refusal is not None
    assert "float32, not bfloat16" in str(refusal.failure)
    assert inspect_checkpoint(tiny, f"{PORTS}:NeedsBfloat16", numerics=bf16)


def faults(checkpoint: Checkpoint, port: str) -> list[str]:
    inspection = inspect_checkpoint(checkpoint, f"{PORTS}:{port}")
    assert inspection.loading is not None
    assert bool(inspection) is not bool(inspection.loading.unfilled)
    return [str(unfilled) for unfilled in inspection.loading.unfilled]


def test_a_missing_shard_of_a_merged_weight_is_found_with_its_rows(tiny: Checkpoint) -> None:
    """Of q [64,64], k [32,64] and v [32,64] in one, v has the last quarter of the rows."""
    assert faults(tiny, "MissingShard") == ["engine.model.blocks.1.attn.qkv.weight [128, 64]: rows 96..127 of 128"]


def test_a_buffer_that_nobody_computed_is_found(tiny: Checkpoint) -> None:
    assert faults(tiny, "UncomputedTable") == ["engine.model.angles [6, 2]: all of it"]


def test_a_module_without_memory_is_found(tiny: Checkpoint) -> None:
    assert faults(tiny, "LeftOnMeta") == [
        "engine.model.extra.weight [2, 2]: all of it, and it has no memory (meta device)"
    ]


def test_memory_that_a_frame_writes_is_scratch_and_no_fault(tiny: Checkpoint) -> None:
    assert faults(tiny, "Scratch") == []
    loading = inspect_checkpoint(tiny, f"{PORTS}:Scratch").loading
    assert loading is not None
    assert [str(scratch) for scratch in loading.scratch] == ["engine.model.clock [4]: all of it"]


def test_an_implementation_that_fails_is_reported_with_its_first_line(tiny: Checkpoint) -> None:
    inspection = inspect_checkpoint(tiny, f"{PORTS}:Fails")
    assert not inspection
    assert inspection.loading is not None
    assert "RuntimeError: size mismatch for blocks.0" in str(inspection.loading.failure)


def test_a_refusal_of_a_sound_checkpoint_is_a_wrong_call(tiny: Checkpoint) -> None:
    for implementation in ("nowhere", "candidate+nothing"):
        with pytest.raises(UserError):
            inspect_checkpoint(tiny, implementation)


def test_a_refusal_of_a_broken_checkpoint_is_one_more_finding(changed: Changed) -> None:
    checkpoint = changed(lambda weights: weights[FC1].fill_(math.nan))
    loading = inspect_checkpoint(checkpoint, "eager").loading
    assert loading is not None
    assert "weights hold NaN or infinity" in (loading.failure or "")


def test_another_checkpoints_config_is_laid_beside_this_one_differences_first(tiny: Checkpoint, tmp_path: Path) -> None:
    other = open_checkpoint(write_checkpoint(tmp_path / "other", n_frames=32, scheduler_sigmas=[1.0, 0.25, 0.0]))
    inspection = inspect_checkpoint(tiny, against=other)
    assert inspection
    transformer, autoencoder = inspection.compared
    assert [(s.key, s.here, s.there) for s in transformer.differences] == [
        ("n_frames", 64, 32),
        ("scheduler_sigmas", [1.0, 0.5, 0.0], [1.0, 0.25, 0.0]),
    ]
    assert transformer.settings[:2] == transformer.differences
    assert len(transformer.settings) == len(tiny.geometry.transformer.to_json())
    assert autoencoder.differences == []


def test_an_implementations_own_config_is_laid_beside_the_checkpoints(tiny: Checkpoint) -> None:
    loading = inspect_checkpoint(tiny, f"{PORTS}:FixedHeads").loading
    assert loading is not None
    transformer = next(compared for compared in loading.configs if compared.part == "transformer")
    assert [(s.key, s.here, s.there) for s in transformer.differences] == [("n_heads", 2, 64)]


def test_the_json_holds_everything_with_the_verdict_first(changed: Changed) -> None:
    checkpoint = changed(lambda weights: weights.pop(FC1))
    inspection: Inspection = inspect_checkpoint(checkpoint, f"{PORTS}:Fails", checkpoint)
    values = json.loads(to_json(inspection.to_json()))
    assert next(iter(values)) == "sound"
    assert values["sound"] is False
    assert values["parts"][0]["missing"] == [FC1]
    assert values["parts"][0]["tensors"][0].keys() == {"key", "shape", "dtype", "parameters", "bytes"}
    assert "size mismatch for blocks.0" in values["loading"]["failure"]
    assert values["compared"][0]["settings"][0] == {"key": "d_model", "here": 64, "there": 64}
