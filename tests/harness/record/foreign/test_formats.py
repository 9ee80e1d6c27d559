"""Every sample, imported: what each tool wrote, by our keys."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.harness.observations import normal
from tests.harness.record.foreign.samples import ROOT, SAMPLES, imported
from waypoint_parity.harness.record.foreign import (
    fastvideo,
    model_debugging,
    msprobe,
    polygraphy,
    sglang,
    tensors,
)
from waypoint_parity.harness.record.records import FRAMES, TENSORS_NAME
from waypoint_parity.harness.record.statistics import summarise
from waypoint_parity.harness.run.keys import Key

STATISTICS = ("mean", "std", "min", "max", "absmean", "rms")

# --- FastVideo


def test_fastvideo(tmp_path: Path) -> None:
    found = imported("fastvideo/right.jsonl", tmp_path / "out")
    assert found.called == fastvideo.NAME
    assert found.manifest.numerics == {"dtype": "fp32"}
    assert found.keys[:2] == ["u0/forward0/patchify", "u0/forward0/blocks.0.attn.heads"]
    lines = [json.loads(line) for line in (SAMPLES / "fastvideo/right.jsonl").read_text().splitlines()]
    assert len(found.records) == len(lines) == 56
    record, line = found.records["u0/forward0/patchify"], lines[0]
    assert (record.shape, record.dtype, record.sketch) == ([1, 8, 32], "float32", "")
    assert (record.mean, record.min, record.absmean) == (line["mean"], line["min"], line["abs_mean"])
    assert record.std == pytest.approx(line["std"] * math.sqrt(255 / 256), rel=1e-12)
    assert not (tmp_path / "out" / TENSORS_NAME).exists()


def test_fastvideo_without_shapes(tmp_path: Path) -> None:
    found = imported("fastvideo/right.defaults.jsonl", tmp_path / "out", dtype="bf16")
    assert found.manifest.numerics == {"dtype": "bf16"}
    record = found.records["u0/forward1/velocity"]
    assert [name for name in STATISTICS if getattr(record, name) is not None] == ["absmean"]
    assert (record.shape, record.dtype) == (None, None)


def test_fastvideo_without_steps(tmp_path: Path) -> None:
    found = imported("fastvideo/right.nostep.jsonl", tmp_path / "out", dtype="fp32", steps_from="call")
    sites = ("patchify", "velocity")
    assert found.keys == [f"u0/forward{step}/{site}" for step in range(2) for site in sites]


def test_fastvideo_odd(tmp_path: Path) -> None:
    records = imported("fastvideo/odd.jsonl", tmp_path / "out").records
    assert (records["u0/forward0/nan"].nan, records["u0/forward0/nan"].mean) == (1, None)
    assert records["u0/forward0/empty"].shape == [0, 3]
    assert [getattr(records["u0/forward0/empty"], name) for name in STATISTICS] == [None] * 6
    assert {"u0/forward0/pair[0]", "u0/forward0/pair[1].k", "u0/forward0/pair[1].l[0]"} <= records.keys()
    assert (records["u0/forward1/one"].std, records["u0/forward1/one"].rms) == (0.0, 3.0)
    assert (records["u0/forward0/bool"].dtype, records["u0/forward0/int"].dtype) == ("bool", "int64")
    assert (records["u0/forward0/bool"].std, records["u0/forward0/bool"].rms) == pytest.approx((0.5, 0.5**0.5))


@pytest.mark.parametrize("run", [0, 1])
def test_fastvideo_one_run_of_two(tmp_path: Path, run: int) -> None:
    found = imported("fastvideo/right.appended.jsonl", tmp_path / "out", dtype="fp32", run=run)
    assert found.keys == [f"u0/forward{step}/{site}" for step in range(2) for site in ("patchify", "velocity")]


def test_fastvideo_repeats_that_are_told(tmp_path: Path) -> None:
    told = {"dtype": "fp32", "repeats_told": True, "units_from": "call"}
    assert imported("fastvideo/right.appended.jsonl", tmp_path / "out", **told).manifest.units == 2


# --- msprobe


def test_msprobe_statistics(tmp_path: Path) -> None:
    found = imported("msprobe/statistics/right", tmp_path / "out")
    assert found.called == msprobe.NAME
    assert len(found.records) == 15
    heads = found.records["u0/forward0/blocks.0.attn.heads"]
    # The same run, once more with its tensors.
    kept = "msprobe/tensor/right/step0/proc4636/dump_tensor_data"
    tensor = torch.load(SAMPLES / kept / "Module.blocks.0.attn.heads.Identity.forward.0.output.0.pt", weights_only=True)
    right = summarise(tensor)
    for name in set(STATISTICS) - {"absmean"}:
        assert getattr(heads, name) == pytest.approx(getattr(right, name), rel=1e-6), name
    assert heads.absmean is None


def test_msprobe_inputs(tmp_path: Path) -> None:
    found = imported("msprobe/statistics/right", tmp_path / "out", inputs=True)
    assert found.keys[:2] == ["u0/forward0/patchify.inputs.0", "u0/forward0/patchify"]
    assert len(found.records) == 30


def test_msprobe_tensors(tmp_path: Path) -> None:
    found = imported("msprobe/tensor/right", tmp_path / "out")
    assert load_file(tmp_path / "out" / TENSORS_NAME).keys() == found.records.keys()
    assert len(found.records) == 4
    assert all(record.sketch for record in found.records.values())


def test_msprobe_statistics_where_the_tensor_is_gone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(SAMPLES / "msprobe/tensor/right", source)
    next(source.rglob("*velocity*.pt")).unlink()
    found = imported(source, tmp_path / "out")
    assert [name for name, record in found.records.items() if not record.sketch] == ["u0/forward0/velocity"]
    assert len(load_file(tmp_path / "out" / TENSORS_NAME)) == 3


def test_msprobe_steps_and_calls(tmp_path: Path) -> None:
    assert imported("msprobe/two_calls/right", tmp_path / "calls").keys == [
        "u0/forward0/velocity",
        "u0/forward0/velocity#1",
    ]
    assert imported("msprobe/two_steps/right", tmp_path / "steps").keys == [
        "u0/forward0/velocity",
        "u0/forward1/velocity",
    ]
    units = imported("msprobe/two_steps/right", tmp_path / "units", units_from="step")
    assert units.keys == ["u0/forward0/velocity", "u1/forward0/velocity"]


def test_msprobe_checksums_prove_equality_alone(tmp_path: Path) -> None:
    record = imported("msprobe/md5/right", tmp_path / "out").records["u0/forward0/velocity"]
    assert record.digest == "crc32:ccfced86"


def test_msprobe_odd(tmp_path: Path) -> None:
    records = imported("msprobe/odd", tmp_path / "out").records
    counts = {name: records[f"u0/forward0/{name}"].non_finite for name in ("nan", "inf", "lin")}
    assert counts == {"nan": (1, 0, 0), "inf": (0, 1, 1), "lin": (0, 0, 0)}
    assert "u0/forward0/lin#1" in records
    assert {"u0/forward0/pair[0]", "u0/forward0/pair[1].k", "u0/forward0/pair[1].l[0]"} <= records.keys()
    rounded, exact = records["u0/forward0/bf"], records["u0/forward0/pair[0]"]
    assert exact.resolution < 2e-6
    assert 2**-8 <= rounded.resolution < 1.1 * 2**-8
    # The same values: apart by the rounding, and no more.
    assert rounded.rms is not None
    assert exact.rms is not None
    assert 1e-5 < abs(rounded.rms / exact.rms - 1) < rounded.resolution
    assert (records["u0/forward0/bool"].min, records["u0/forward0/bool"].max) == (0.0, 1.0)


@pytest.mark.parametrize("inside", ["step0", "step0/proc4014", "step0/proc4014/dump.json"])
def test_msprobe_named_by_a_part_of_its_folder(tmp_path: Path, inside: str) -> None:
    assert len(imported(f"msprobe/statistics/right/{inside}", tmp_path / "out").records) == 15


# --- transformers


def test_transformers_files(tmp_path: Path) -> None:
    found = imported("transformers/full/right", tmp_path / "out")
    assert found.called == model_debugging.NAME
    assert len(found.records) == len(load_file(tmp_path / "out" / TENSORS_NAME)) == 12
    assert found.keys[0] == "u0/forward0/patchify"
    assert found.keys[-1] == "u0/forward0/velocity"
    assert "u0/forward0/blocks.0" not in found.records


def test_transformers_outputs_of_blocks_are_the_inputs_of_what_follows(tmp_path: Path) -> None:
    found = imported("transformers/full/right", tmp_path / "out", block_outputs=True, inputs=True)
    kept = load_file(tmp_path / "out" / TENSORS_NAME)
    assert torch.equal(kept["u0/forward0/blocks.0"], kept["u0/forward0/velocity.inputs.0"])
    # A module that is no numbered block is followed by a sum, not by what takes its output.
    assert not {"u0/forward0/blocks.0.attn", "u0/forward0/blocks.0.mlp"} & found.records.keys()
    assert len(found.records) == 12 + 16 + 1


def test_transformers_printed(tmp_path: Path) -> None:
    printed = imported("transformers/repr_default/right", tmp_path / "printed")
    whole = imported("transformers/full/right", tmp_path / "whole")
    assert printed.keys == whole.keys
    for name, record in printed.records.items():
        right = whole.records[name]
        assert (record.sketch, record.shape) == ("", right.shape)
        assert right.rms is not None
        for statistic in set(STATISTICS) - {"absmean"}:
            apart = abs(getattr(record, statistic) - getattr(right, statistic))
            assert apart <= record.resolution * right.rms * 2, (name, statistic)


def test_transformers_a_module_that_is_called_twice_has_one_file(tmp_path: Path) -> None:
    records = imported("transformers/shared_module/right", tmp_path / "out").records
    first, last = records["u0/forward0/lin"], records["u0/forward0/lin#1"]
    assert (bool(first.sketch), bool(last.sketch)) == (False, True)
    assert first.mean == pytest.approx(1.6516e-01)
    assert last.mean == pytest.approx(-3.8627e-02, rel=1e-4)
    # What has NaN is the second call's, of another shape than the first one's.
    assert (records["u0/forward0/big"].shape, records["u0/forward0/big"].nan) == ([2000], 0)
    assert records["u0/forward0/big#1"].nan > 0


# --- SGLang


def test_sglang(tmp_path: Path) -> None:
    found = imported("sglang/right", tmp_path / "out")
    assert found.called == sglang.NAME
    sites = ("blocks.0.attn.heads", "blocks.0.attn", "blocks.0.mlp", "blocks.0", "velocity")
    assert found.keys == [f"u0/forward{step}/{site}" for step in range(2) for site in sites]


def test_sglang_without_steps(tmp_path: Path) -> None:
    # In the order of dump_index: by the names of files, 10 comes before 4.
    assert imported("sglang/right_no_step", tmp_path / "out").keys == [
        "u0/forward0/blocks.0",
        "u0/forward0/velocity",
        "u0/forward0/blocks.0#1",
        "u0/forward0/velocity#1",
    ]


def test_sglang_tags(tmp_path: Path) -> None:
    found = imported("sglang/tags", tmp_path / "out")
    assert found.keys == ["u3/denoise0/block__hidden_states.layer_id.2"]


# --- Polygraphy


def test_polygraphy(tmp_path: Path) -> None:
    found = imported("polygraphy/right.json", tmp_path / "out")
    assert found.called == polygraphy.NAME
    assert len(found.records) == len(load_file(tmp_path / "out" / TENSORS_NAME)) == 46
    assert "u0/forward0//m/blocks.0/mlp/fc2/MatMul_output_0" in found.records


def test_polygraphy_iterations(tmp_path: Path) -> None:
    source = "polygraphy/right.two_iterations.json"
    assert imported(source, tmp_path / "units").keys == ["u0/forward0/velocity", "u1/forward0/velocity"]


def test_polygraphy_inputs(tmp_path: Path) -> None:
    assert imported("polygraphy/inputs.json", tmp_path / "out").keys == ["u0/forward0/input.x"]


# --- plain tensors

FLAT = [
    *("patchify", "block_0.attn.heads", "block_0.attn", "block_0.mlp", "block_0"),
    *("block_1.attn.heads", "block_1.attn", "block_1.mlp", "block_1", "velocity"),
]


@pytest.mark.parametrize(("kind", "by_name"), [("pt", False), ("npz", False), ("safetensors", True), ("pt", True)])
def test_flat_files(tmp_path: Path, kind: str, by_name: bool) -> None:
    found = imported(f"hand/flat/right.{kind}", tmp_path / "out", by_name=by_name)
    assert found.called == tensors.NAME
    # Modules come behind their parts: so what diverges first is named first, also where names tell the order.
    sites = [*FLAT[1:-1], "patchify", "velocity"] if by_name else FLAT
    assert found.keys == [f"u0/forward0/{site}" for site in sites]


def test_what_a_file_is_tells_its_content(tmp_path: Path) -> None:
    for kind in ("pt", "npz", "safetensors"):
        shutil.copy(SAMPLES / f"hand/flat/right.{kind}", tmp_path / "right.bin")
        assert len(imported(tmp_path / "right.bin", tmp_path / "out").records) == len(FLAT)
    shutil.copy(SAMPLES / "fastvideo/right.jsonl", tmp_path / "right.bin")
    assert imported(tmp_path / "right.bin", tmp_path / "out").called == fastvideo.NAME


def test_files_of_frames(tmp_path: Path) -> None:
    found = imported("hand/frame_files/right", tmp_path / "out")
    sites = ("forward0/dit_out", "forward1/dit_out", "forward0/latent", "forward0/noise_f32", "forward0/ring.0.written")
    assert found.keys == [f"u{unit}/{site}" for unit in range(2) for site in sites]
    assert [found.records[f"u1/forward{step}/dit_out"].sigma for step in range(2)] == [1.0, 0.5]


def test_a_pass_without_noise_writes_the_cache(tmp_path: Path) -> None:
    passes = [normal(3, seed=number) for number in range(3)]
    torch.save({"dit_out": passes, "pass_sigmas": [1.0, 0.5, 0.0], "kv": [passes[0], None]}, tmp_path / "frame_007.pt")
    found = imported(tmp_path / "frame_007.pt", tmp_path / "out", phase="denoise")
    assert found.keys == ["u7/denoise0/dit_out", "u7/denoise1/dit_out", "u7/cache0/dit_out", "u7/denoise0/kv.0"]
    layers = imported(tmp_path / "frame_007.pt", tmp_path / "out", steps_along=("nothing",))
    assert layers.keys == [*(f"u7/forward0/dit_out.{number}" for number in range(3)), "u7/forward0/kv.0"]


def test_stacked_tensors_are_taken_apart_by_rule(tmp_path: Path) -> None:
    whole = imported("hand/stacked/right.pt", tmp_path / "whole")
    assert whole.records["u0/forward0/frame_latents"].shape == [2, 1, 4, 16]
    apart = imported("hand/stacked/right.pt", tmp_path / "apart", units_along=("frame_*", "noise_draws"))
    assert apart.records["u1/forward0/frame_latents"].shape == [1, 4, 16]
    assert len(apart.records) == len(whole.records) + 2
    steps = imported("hand/stacked/right.pt", tmp_path / "steps", units_along=("frame_*",), steps_along=("frame_*",))
    assert steps.records["u1/forward0/frame_latents"].shape == [4, 16]
    along = {"units_along": ("sigmas",), "steps_along": ("sigmas",)}
    assert imported("hand/stacked/right.pt", tmp_path / "numbers", **along).records["u2/forward0/sigmas"].shape == []


def test_an_index_of_files(tmp_path: Path) -> None:
    found = imported("hand/indexed/right", tmp_path / "out")
    assert len(found.records) == 10
    assert found.keys[:4] == [f"u0/gen1_0/blocks.0{part}" for part in (".attn.heads", ".attn", ".mlp", "")]
    assert found.manifest.numerics == {"dtype": "bf16"}
    gone = imported("hand/indexed/permuted", tmp_path / "gone")
    assert len(gone.records) == 5
    assert any("5 tensors" in note for note in gone.manifest.notes)


def test_folders_of_steps(tmp_path: Path) -> None:
    sites = ("block_0", "block_1", "velocity")
    found = imported("hand/step_folders/right", tmp_path / "out")
    assert found.keys == [f"u0/forward{step}/{site}" for step in range(2) for site in sites]


def test_files_at_two_depths(tmp_path: Path) -> None:
    (tmp_path / "source/sub").mkdir(parents=True)
    for name in ("x", "sub/y"):
        torch.save(normal(3), tmp_path / "source" / f"{name}.pt")
    assert len(imported(tmp_path / "source", tmp_path / "out").keys) == 2


def test_passes_of_an_older_dumper_of_one_process(tmp_path: Path) -> None:
    for rank in range(2):
        folder = tmp_path / "source" / f"TP{rank}_PP0_Rank{rank}_pid77"
        folder.mkdir(parents=True)
        for number in (0, 1, 10):
            torch.save({"blocks.0": normal(3, seed=rank)}, folder / f"Pass{number:05}.pt")
    found = imported(tmp_path / "source", tmp_path / "out", process="1")
    assert found.keys == [f"u0/forward{step}/blocks.0" for step in (0, 1, 10)]
    assert torch.equal(load_file(tmp_path / "out" / TENSORS_NAME)["u0/forward1/blocks.0"], normal(3, seed=1))


def test_values_of_every_kind(tmp_path: Path) -> None:
    values = {
        "none": None,
        "text": "a",
        "complex": torch.tensor([1 + 2j]),
        "sparse": torch.eye(2).to_sparse(),
        "deep": {"list": [{"a": normal(2)}, [normal(3), normal(3)]]},
        "fp8": normal(4).to(torch.float8_e4m3fn),
        "uint16": torch.arange(3).to(torch.uint16),
        "empty": torch.zeros(0, 2),
        "transposed": normal(2, 3).t(),
    }
    torch.save(values, tmp_path / "values.pt")
    found = imported(tmp_path / "values.pt", tmp_path / "out")
    kept = load_file(tmp_path / "out" / TENSORS_NAME)
    assert kept.keys() == found.records.keys()
    assert {str(Key.parse(name).site) for name in kept if Key.parse(name)} == {
        *("complex", "deep.list.0.a", "deep.list.1", "fp8", "uint16", "empty", "transposed")
    }
    assert kept["u0/forward0/complex"].tolist() == [[1.0, 2.0]]
    assert torch.equal(kept["u0/forward0/transposed"], values["transposed"])
    assert sum("left out" in note for note in found.manifest.notes) == 2


def test_texts_beside_arrays_are_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", prompt=np.array("a cave"), latent=np.ones((2, 3), ">f4"))
    found = imported(tmp_path / "a.npz", tmp_path / "out")
    assert found.keys == ["u0/forward0/latent"]
    assert found.records["u0/forward0/latent"].mean == 1.0


def test_tensors_are_not_kept_unless_wanted(tmp_path: Path) -> None:
    found = imported("hand/flat/right.pt", tmp_path / "out", keep_tensors=False)
    assert not (tmp_path / "out" / TENSORS_NAME).exists()
    assert all(record.sketch for record in found.records.values())


def test_the_float_type_of_most_tensors_is_that_of_the_run(tmp_path: Path) -> None:
    wide, narrow = {f"a{n}": normal(2) for n in range(3)}, {f"b{n}": normal(2).bfloat16() for n in range(3)}
    integers = {f"c{n}": torch.arange(3) for n in range(9)}
    for kept, dtype in (({"a0"}, "fp32"), ({"a0", "b0"}, "bf16"), ({"a0", "a1", "b0"}, "fp32"), ({"b0"}, "bf16")):
        save_file({n: t for n, t in {**wide, **narrow}.items() if n in kept} | integers, tmp_path / "t.safetensors")
        assert imported(tmp_path / "t.safetensors", tmp_path / "out").manifest.numerics == {"dtype": dtype}


def test_names_as_in_the_golden_packs(tmp_path: Path) -> None:
    """Their tensors are named by keys; pictures and the stack of latents need a rule each."""
    golden = ROOT / "fixtures/golden/base"
    found = imported(golden / "activations.safetensors", tmp_path / "out", family="waypoint", rename=("^latents$=",))
    names = load_file(golden / "activations.safetensors").keys() - {"latents"}
    assert set(found.keys) == {f"u{name[1:]}" for name in names}
    assert found.manifest.family == "waypoint"
    assert not any("no sites" in note for note in found.manifest.notes)
    pictures = golden / "frames.safetensors"
    shown = imported(pictures, tmp_path / "frames", family="waypoint", dtype="fp32", rename=("/frame=/decode0/frame",))
    assert len(list((tmp_path / "frames" / FRAMES).iterdir())) == len(shown.records) > 0


def test_names_that_are_no_sites_of_the_family_are_told(tmp_path: Path) -> None:
    rename = (r"^blocks\.=transformer.blocks.", r"\.(heads|fc2)$=.gate_proj", r"\.out_proj$=.k_proj")
    found = imported("fastvideo/right.jsonl", tmp_path / "out", family="waypoint", rename=rename)
    assert any("transformer.blocks.0.mlp.gate_proj" in note for note in found.manifest.notes)
    assert not any("transformer.blocks.0.attn," in note for note in found.manifest.notes)
