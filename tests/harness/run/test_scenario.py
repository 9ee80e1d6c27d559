import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.scenario import SCHEMA, Scenario, read_scenario, write_scenario

FIRST_SCHEMA = "waypoint-parity/scenario/1"


@pytest.fixture
def file(tiny_scenario: Scenario, tmp_path: Path) -> Path:
    path = tmp_path / "short.safetensors"
    write_scenario(tiny_scenario, path)
    return path


def rewrite(file: Path, metadata: dict[str, str] | None = None, **changes: Tensor | None) -> Path:
    """The file with some tensors replaced, or taken out where None."""
    tensors = load_file(file) | {name: tensor for name, tensor in changes.items() if tensor is not None}
    kept = {name: tensor for name, tensor in tensors.items() if changes.get(name, tensor) is not None}
    save_file(kept, file, metadata)
    return file


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


def test_a_scenario_is_read_back_as_it_was_written(tiny_scenario: Scenario, file: Path) -> None:
    found = read_scenario(file)
    assert found.tensors.keys() == tiny_scenario.tensors.keys()
    assert all(found.tensors[name].equal(tensor) for name, tensor in tiny_scenario.tensors.items())
    assert (found.family, found.name, found.seed, found.units) == ("waypoint", "short", 3, 2)
    assert (found.numbers, found.labels) == ({}, {"noise_policy": "per-frame"})
    assert found.digest == tiny_scenario.digest


def test_numbers_labels_and_units_travel_with_it(tiny_scenario: Scenario, tmp_path: Path) -> None:
    told = dataclasses.replace(
        tiny_scenario,
        seed=-4,
        numbers={"guidance": 7.5, "shift": -1e-7},
        labels={"world_seed": "2000120", "made by": "hand"},
    )
    write_scenario(told, tmp_path / "told.safetensors")
    found = read_scenario(tmp_path / "told.safetensors")
    assert (found.seed, found.units, found.numbers, found.labels) == (-4, 2, told.numbers, told.labels)
    assert found.digest == told.digest


def test_a_file_of_the_first_schema_is_read(file: Path, tiny_scenario: Scenario) -> None:
    """It names no family and no units, and what are labels now were fields."""
    first = {"schema": FIRST_SCHEMA, "name": "old", "seed": "5", "noise_policy": "global", "world_seed": "7"}
    found = read_scenario(rewrite(file, first))
    assert (found.family, found.name, found.seed, found.units) == ("waypoint", "old", 5, 2)
    assert found.labels == {"noise_policy": "global", "world_seed": "7"}
    assert found.digest == tiny_scenario.digest


def test_a_file_that_says_nothing_of_itself_is_of_the_first_schema_too(file: Path) -> None:
    found = read_scenario(rewrite(file))
    assert (found.family, found.name, found.seed, found.units, found.labels) == ("waypoint", "short", 0, 2, {})


@pytest.mark.parametrize(
    ("pack", "digest"),
    [
        ("base", "1001d99887378c717ad1d14c4cdc9c32964281b01ea0e38ab7b56326c11feb39"),
        ("image", "9f4051f0ae3fd84ad740b8e630eff6825ab0754c20df4c25d8b393402302ff0b"),
    ],
)
def test_a_recorded_digest_stays_what_it_was(golden: Path, pack: str, digest: str) -> None:
    """Baselines and noise floors name scenarios by it."""
    assert read_scenario(golden / pack / "scenario.safetensors").digest == digest


def test_the_digest_is_that_of_the_tensors_and_numbers_alone(tiny_scenario: Scenario) -> None:
    renamed = dataclasses.replace(tiny_scenario, name="another", seed=99, labels={"noise_policy": "global"})
    assert renamed.digest == tiny_scenario.digest
    louder = tiny_scenario.with_tensors(noise=tiny_scenario["noise"] * 1.0001)
    guided = [dataclasses.replace(tiny_scenario, numbers=numbers) for numbers in ({"cfg": 7.0}, {"cfg": 7.5})]
    digests = {scenario.digest for scenario in (tiny_scenario, louder, *guided)}
    assert len(digests) == 4


def test_the_order_of_numbers_and_tensors_is_none_of_the_digest_s(tiny_scenario: Scenario) -> None:
    ordered = [dataclasses.replace(tiny_scenario, numbers=dict(pairs)) for pairs in ([("a", 1.0), ("b", 2.0)],) * 2]
    turned = dataclasses.replace(
        ordered[0], numbers={"b": 2.0, "a": 1.0}, tensors=dict([*tiny_scenario.tensors.items()][::-1])
    )
    assert {scenario.digest for scenario in (*ordered, turned)} == {ordered[0].digest}


def test_a_view_has_the_digest_of_its_values(tiny_scenario: Scenario) -> None:
    noise = tiny_scenario["noise"].transpose(-1, -2).contiguous().transpose(-1, -2)
    assert tiny_scenario.with_tensors(noise=noise).digest == tiny_scenario.digest


def test_tensors_are_replaced_and_taken_away(tiny_scenario: Scenario) -> None:
    sigmas = torch.tensor([1.0, 0.0])
    changed = tiny_scenario.with_tensors(sigmas=sigmas, noise=None)
    assert changed["sigmas"] is changed.get("sigmas") is sigmas
    assert (changed.get("noise"), changed["mouse"]) == (None, tiny_scenario["mouse"])
    with pytest.raises(KeyError):
        changed["noise"]
    assert tiny_scenario.get("noise") is not None


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_file_that_was_cut_short_is_refused_by_name(file: Path, kept: int) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError) as caught:
        read_scenario(file)
    assert caught.value.what == f"{file}: cannot be read as a scenario"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"", "an empty file"),
    ],
)
def test_what_lies_in_the_place_of_a_scenario_is_told(file: Path, content: bytes, found: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_scenario(file)
    assert caught.value.found.startswith(found)


def test_a_folder_is_no_scenario(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(tmp_path)
    assert caught.value.do == "name the file itself"


def test_the_weights_of_a_checkpoint_are_no_scenario(tiny_folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(tiny_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert caught.value.found.startswith("lacks noise, lacks button")
    assert "something else" in caught.value.do


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.safetensors: cannot be read as a scenario"):
        read_scenario(tmp_path / "absent.safetensors")


def test_an_unknown_schema_is_refused(file: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(rewrite(file, {"schema": "waypoint-parity/scenario/3"}))
    assert (caught.value.found, caught.value.expected) == ("waypoint-parity/scenario/3", SCHEMA)


def test_an_unknown_family_is_refused(file: Path) -> None:
    with pytest.raises(UserError, match="sora: no such family of models"):
        read_scenario(rewrite(file, metadata(file) | {"family": "sora"}))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"seed": "eleven"}, "seed eleven is no whole number of 64 bits"),
        ({"seed": str(2**64)}, f"seed {2**64} is no whole number of 64 bits"),
        ({"seed": str(-(2**63) - 1)}, f"seed {-(2**63) - 1} is no whole number of 64 bits"),
        ({"seed": "9" * 5000}, f"seed {'9' * 24} is no whole number of 64 bits"),
        ({"seed": "\u00b2"}, "seed \u00b2 is no whole number of 64 bits"),
        ({"units": "2.5"}, "units 2.5 is no whole number of 64 bits"),
        ({"units": "5"}, "units 5, and tensors of 2"),
        ({"units": "1"}, "units 1, and tensors of 2"),
        ({"units": "-2"}, "units -2, and tensors of 2"),
        ({"units": "0"}, "units 0, and tensors of 2"),
        ({"numbers": "[" * 100_000}, "numbers are no JSON object of numbers"),
        ({"numbers": '{"a": ' + "9" * 400 + "}"}, "numbers are no JSON object of numbers"),
        ({"numbers": "7.5"}, "numbers are no JSON object of numbers"),
        ({"numbers": "{"}, "numbers are no JSON object of numbers"),
        ({"numbers": json.dumps({"cfg": "high"})}, "numbers are no JSON object of numbers"),
        ({"numbers": json.dumps({"cfg": None})}, "numbers are no JSON object of numbers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_whose_numbers_are_none_is_refused_with_what_is_wrong(
    file: Path, changes: dict[str, str], found: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(rewrite(file, metadata(file) | changes))
    assert caught.value.found == found


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e400"])
def test_a_number_that_is_not_finite_is_refused(file: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(rewrite(file, metadata(file) | {"numbers": f'{{"cfg": {text}}}'}))
    assert caught.value.found == "cfg is not finite"


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"noise": None}, "lacks noise"),
        ({"text": torch.zeros(1)}, "unknown text"),
        ({"noise": torch.zeros(2, 1, 1, 4, 2, 2, dtype=torch.float64)}, "noise is torch.float64, not torch.float32"),
        ({"mouse": torch.tensor([[0.0, torch.nan], [0.0, 0.0]])}, "mouse holds values that are not finite"),
        ({"noise": torch.tensor(0.0)}, "noise is a single number"),
        (
            {"noise": torch.zeros(2, 1, 1, 4, 2, 2).to(torch.float8_e4m3fn)},
            "noise is torch.float8_e4m3fn, not torch.float32",
        ),
        ({"noise": torch.zeros(2, dtype=torch.complex64)}, "noise is torch.complex64, not torch.float32"),
        ({"prompt_pad_mask": torch.tensor(False)}, "prompt_pad_mask is a single number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_scenario_is_refused_with_what_is_wrong(
    file: Path, changes: dict[str, Tensor | None], found: str
) -> None:
    with pytest.raises(UserError) as caught:
        read_scenario(rewrite(file, **changes))
    assert caught.value.found == found


def test_a_file_is_replaced_as_a_whole(tiny_scenario: Scenario, file: Path) -> None:
    write_scenario(dataclasses.replace(tiny_scenario, name="again"), file)
    assert read_scenario(file).name == "again"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_file_that_cannot_be_written_is_the_callers_error(tiny_scenario: Scenario, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_scenario(tiny_scenario, tmp_path / "file" / "short.safetensors")
