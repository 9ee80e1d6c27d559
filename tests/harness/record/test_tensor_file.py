from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.harness.observations import normal
from waypoint_parity.harness.record.tensor_file import TensorFile

TENSORS = {
    "u0/a0/\u00e9": normal(5, 7),
    "large": normal(1500, 3001),  # more than is moved at once
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3.0),
    "transposed": normal(4, 6).t(),
    "sliced": normal(8, 8)[::2, 1:3],
    "bool": torch.tensor([True, False, True]),
    "bf16": normal(9).bfloat16(),
    "fp8": normal(9).to(torch.float8_e4m3fn),
    "uint16": torch.arange(5).to(torch.uint16),
}


@pytest.mark.parametrize("names", [list(TENSORS), ["scalar"], []])
def test_what_was_written_is_read_by_safetensors(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "tensors.safetensors"
    file = TensorFile(path)
    for name in names:
        file.add(name, TENSORS[name])
        assert not path.exists()
    file.finish()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    read = load_file(path)
    assert read.keys() == set(names)
    assert [name for name in names if not alike(read[name], TENSORS[name])] == []


def alike(actual: Tensor, expected: Tensor) -> bool:
    as_read = (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    return as_read and torch.equal(actual.double(), expected.double())


def test_of_two_by_one_name_the_first_is_kept(tmp_path: Path) -> None:
    file = TensorFile(tmp_path / "t")
    file.add("a", torch.ones(3))
    file.add("a", torch.zeros(3))
    file.add("b", torch.zeros(2))
    file.finish()
    assert load_file(tmp_path / "t")["a"].tolist() == [1, 1, 1]
