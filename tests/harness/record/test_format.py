"""The files that carry the format to other languages, and what the page says of it.

`python -m tests.harness.record.test_format` writes the files again.
"""

import base64
import ctypes
import json
import math
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.cli.conftest import ROOT, run
from tests.harness.observations import key, write_dump
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    RECORDS_NAME,
    SKETCH_SIZE,
    Manifest,
    Record,
    read_records,
)
from waypoint_parity.harness.record.statistics import CHUNK, summarise
from waypoint_parity.harness.run.digest import fast_digest, flat_bytes

FORMAT = ROOT / "harness" / "record" / "format"
SIGNS, VECTORS = FORMAT / "signs.bin", FORMAT / "vectors.json"
PAGE = (ROOT / "docs" / "format.md").read_text("utf-8")
# As the page has them: of 1024 chunks, each 33 signs further on.
CHUNKS, SHIFT, SEED = 1024, 33, 20260121
WITHIN = CHUNK + SHIFT * CHUNKS
ACROSS_AT = 8320
STATISTICS = ("mean", "std", "absmean", "rms")
FORMULA = "((7*i*i + 3*i) mod 1009) / 256 - 2"


def outputs(seed: int, count: int) -> npt.NDArray[np.uint32]:
    """32-bit outputs of MT19937, seeded by one number, from NumPy's and not from torch's."""
    return np.random.RandomState(seed).randint(0, 1 << 32, count, np.uint32)


def bits(values: npt.NDArray[Any], room: int) -> bytes:
    return np.packbits(values, bitorder="little").tobytes().ljust(room, b"\0")


def signs() -> bytes:
    within, across = (outputs(SEED, WITHIN) & 1, outputs(SEED + 1, CHUNKS) & 1)
    return bits(within, ACROSS_AT) + bits(across, CHUNKS // 8)


def by_formula(count: int) -> Tensor:
    i = torch.arange(count, dtype=torch.int64)
    return (((7 * i * i + 3 * i) % 1009) / 256 - 2).float()


def tensors() -> dict[str, Tensor]:
    special = torch.tensor([1.5, math.nan, -2.25, math.inf, -math.inf, math.nan, 0.125, 3.0])
    return {
        "one element": torch.tensor([[-1.5]]),
        "eight elements": torch.tensor([[0.5, -1.0, 2.0, 3.25], [0.1, 1e-3, -7.0, 11.0]]),
        "not one element": torch.zeros(0, 4),
        "more than 61 elements": by_formula(200).view(2, 100),
        "NaN and infinity": special,
        "nothing finite": torch.full((3,), math.nan),
        "huge": torch.tensor([3e38, -3e38, 3e38]),
        "bfloat16": by_formula(15).bfloat16().view(3, 5),
        "float16": by_formula(9).half(),
        "float64, read as float32": torch.tensor([0.1, 1 / 3, -1e-9], dtype=torch.float64),
        "int64": torch.arange(-3, 9),
        "uint8": (by_formula(18).abs() * 60).to(torch.uint8).view(2, 3, 3),
        "bool": by_formula(70) > 0,
        "four chunks": by_formula(120_000).view(3, 40_000),
    }


def vectors(folder: Path) -> list[dict[str, Any]]:
    """Tensors, as their bytes or by the formula, and what a record says of each."""
    given = tensors()
    dump = write_dump(folder, [(key("x", call=call), tensor) for call, tensor in enumerate(given.values())])
    listed = []
    for (name, tensor), record in zip(given.items(), read_records(dump), strict=True):
        said = msgspec.to_builtins(record)
        own = {field: said[field] for field in (*STATISTICS, "min", "max", "nan", "posinf", "neginf")}
        own |= {field: said[field] for field in ("sample", "sketch", "digest")}
        content = flat_bytes(tensor).numpy().tobytes().hex()
        values = {"bytes": content} if len(content) <= 2000 else {"formula": FORMULA}
        listed.append({"name": name, "dtype": record.dtype, "shape": record.shape, **values, "record": own})
    return listed


def test_the_signs_are_the_low_bits_of_mt19937() -> None:
    assert SIGNS.read_bytes() == signs()


def test_the_vectors_are_what_records_say(tmp_path: Path) -> None:
    kept, made = json.loads(VECTORS.read_bytes())["vectors"], vectors(tmp_path)
    assert len(kept) == len(made)
    for known, now in zip(kept, made, strict=True):
        ours, theirs = known.pop("record"), now.pop("record")
        assert known == now
        # Another instruction set adds in another order.
        for field in STATISTICS if theirs["rms"] is not None else ():
            assert ours[field] == pytest.approx(theirs[field], rel=1e-6, abs=1e-6), (known["name"], field)
        sketches = (np.frombuffer(base64.b64decode(each["sketch"]), "<f4") for each in (ours, theirs))
        np.testing.assert_allclose(*sketches, rtol=1e-5, atol=1e-4)
        assert {ours[field] is None for field in STATISTICS} == {theirs["rms"] is None}
        for field in theirs.keys() - {*STATISTICS, "sketch"}:
            assert ours[field] == theirs[field], (known["name"], field)


# --- by the page alone


def sign(place: int, start: int = 0) -> int:
    table = SIGNS.read_bytes()
    at = start * 8 + place
    return 1 if table[at // 8] >> at % 8 & 1 else -1


def sketch_by_the_page(values: list[float]) -> list[float]:
    sketch = [0.0] * 61
    for i, value in enumerate(values):
        chunk, place = divmod(i, 61 * 537)
        if math.isfinite(value):
            sketch[place % 61] += value * sign(33 * chunk + place) * sign(chunk, ACROSS_AT)
    return sketch


@pytest.mark.parametrize("name", ["eight elements", "more than 61 elements", "NaN and infinity"])
def test_the_sketch_is_what_the_page_says(name: str) -> None:
    values = tensors()[name]
    found = struct.unpack("<61f", summarise(values).sketch)
    assert found == pytest.approx(sketch_by_the_page(values.flatten().tolist()), rel=1e-6, abs=1e-6)


def test_the_sketch_of_several_chunks_is_what_the_page_says() -> None:
    values = tensors()["four chunks"].flatten().double().numpy()
    table = np.frombuffer(SIGNS.read_bytes(), np.uint8)
    within, across = (np.unpackbits(part, bitorder="little") * 2.0 - 1 for part in np.split(table, [ACROSS_AT]))
    i = np.arange(len(values))
    chunk, place = np.divmod(i, CHUNK)
    expected = np.bincount(place % 61, values * within[33 * chunk + place] * across[chunk], 61)
    np.testing.assert_allclose(struct.unpack("<61f", summarise(torch.from_numpy(values)).sketch), expected, atol=1e-2)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_the_c_code_of_the_page_makes_the_sketch(tmp_path: Path) -> None:
    code = "\n".join(line[4:] for line in PAGE.partition("In C:\n")[2].partition("\nLonger")[0].splitlines())
    (tmp_path / "sketch.c").write_text(f"#include <math.h>\n#include <stdint.h>\n{code}\n")
    library = tmp_path / "sketch.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "sketch.c", "-lm"], check=True)
    found = (ctypes.c_float * 61)()
    for name in ("NaN and infinity", "four chunks"):
        values = tensors()[name].numpy()
        given = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        ctypes.CDLL(str(library)).sketch(given, ctypes.c_int64(values.size), SIGNS.read_bytes(), found)
        expected = struct.unpack("<61f", summarise(torch.from_numpy(values)).sketch)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 100, 32757, 12_345_678])
def test_the_sample_is_at_the_places_that_the_page_says(size: int) -> None:
    places = [(2 * i * (size - 1) + 7) // 14 for i in range(8)]
    assert summarise(torch.arange(size, dtype=torch.float64)).sample == places


def example(folder: Path) -> Path:
    """The dump that the page shows."""
    manifest, records = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    folder.mkdir()
    (folder / MANIFEST_NAME).write_text(manifest)
    (folder / RECORDS_NAME).write_text(records)
    return folder


def test_the_example_of_the_page_is_a_dump(tmp_path: Path) -> None:
    folder = example(tmp_path / "example")
    assert run("check-dump", folder).code == 0
    outcome = run("diff", folder, folder)
    assert outcome.code == 0, outcome
    assert outcome.out.startswith("IDENTICAL")


@pytest.mark.parametrize("kind", ["Record", "Manifest"])
def test_the_page_names_every_field(kind: str) -> None:
    struct_ = {"Record": Record, "Manifest": Manifest}[kind]
    absent = [name for name in struct_.__struct_fields__ if f"`{name}`" not in PAGE]
    assert absent == []


def test_the_page_has_the_numbers_of_the_code() -> None:
    assert (SKETCH_SIZE, CHUNK) == (61, 61 * 537)
    assert all(str(number) in PAGE for number in (SKETCH_SIZE, CHUNK, SHIFT, SEED, SEED + 1, ACROSS_AT))
    assert fast_digest(torch.zeros(0)) in PAGE


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    SIGNS.write_bytes(signs())
    with TemporaryDirectory() as scratch:
        rows = ",\n".join(json.dumps(vector) for vector in vectors(Path(scratch)))
    VECTORS.write_text(f'{{"vectors":[\n{rows}\n]}}\n')
