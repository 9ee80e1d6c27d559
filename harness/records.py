"""Records and manifests: what a dump holds, as the JSON of spec/formats.md."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from harness.errors import UserError
from harness.keys import Key, Phase

DUMP_SCHEMA = "waypoint-parity/dump/1"
RECORDS_NAME = "activations.jsonl"
MANIFEST_NAME = "manifest.json"
SAMPLES = 8
# k of the sketch. A prime, so that a channel (a stride of 2**n elements) spreads over all buckets instead of one: an
# outlier channel would else decide the estimate alone. The estimate of ||a - b|| has a relative error of
# 1/sqrt(2k) = 9 % (measured: tests/harness/test_statistics.py prints it).
SKETCH_SIZE = 61
SKETCH_SEED = 20260121  # part of the record schema: another seed is another schema


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One observation. Statistics are over the finite elements, None where there are none."""

    frame: int
    phase: Phase
    step: int
    site: str
    call: int
    sigma: float | None
    shape: list[int]
    dtype: str
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    absmean: float | None
    rms: float | None
    nan: int
    posinf: int
    neginf: int
    sample: list[float | None]
    sketch: str
    # xxh3-64 of the bytes in the official layout: equality bit for bit, which no statistic proves. Absent where an
    # accelerator would have had to send the tensor home for it.
    digest: str | None = None

    @property
    def key(self) -> Key:
        """Identity of the observation."""
        return Key(self.frame, self.phase, self.step, self.site, self.call)

    @property
    def non_finite(self) -> tuple[int, int, int]:
        """Counts of NaN, +inf and -inf."""
        return self.nan, self.posinf, self.neginf

    def projection(self) -> npt.NDArray[np.float32]:
        """The sketch [SKETCH_SIZE]."""
        return np.frombuffer(base64.b64decode(self.sketch, validate=True), "<f4")


class Manifest(msgspec.Struct, kw_only=True):
    """Identity of a run; `complete` only once the last record is on disk."""

    schema: str
    implementation: str
    numerics: dict[str, str]
    description: dict[str, str]
    checkpoint_digest: str
    checkpoint_origin: str
    scenario_digest: str
    scenario_name: str
    variant: str | None
    sigmas: list[float]
    torch: str
    threads: int
    platform: str
    source_revision: str | None
    expected: int
    observed: int
    seconds: float
    complete: bool


_decoder = msgspec.json.Decoder(Record)
encode = msgspec.json.Encoder().encode


def is_dump(folder: Path) -> bool:
    """Whether `folder` holds a dump, of whatever schema version, finished or not."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return str(manifest.get("schema")).startswith(DUMP_SCHEMA.rpartition("/")[0])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dump. Raises UserError for a folder that is no dump, another schema, or an unfinished run."""
    path = folder / MANIFEST_NAME
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as a manifest",
            found=str(error),
            expected=f"a manifest of schema {DUMP_SCHEMA}",
            do="name the folder that `waypoint-parity dump --out` wrote",
        ) from error
    if manifest.schema != DUMP_SCHEMA:
        raise UserError(
            f"{path}: unknown dump schema",
            found=manifest.schema,
            expected=DUMP_SCHEMA,
            do="dump again, or use a release of waypoint-parity that knows the schema",
        )
    if not manifest.complete:
        raise UserError(
            f"{folder}: the dump is incomplete",
            found=f"{manifest.observed} records promised by an unfinished run",
            expected="complete: true in the manifest",
            do="run the dump again; it was interrupted or failed",
        )
    return manifest


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a dump in file order, one at a time. Raises UserError, naming file and line, for a broken one.

    A file that ends before or after the record that its manifest promises as the last raises UserError too.
    """
    path, promised = folder / RECORDS_NAME, read_manifest(folder).observed
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read", found=str(error), expected="the records of a dump", do="dump again"
        ) from error
    number = 0
    with file:
        for number, line in enumerate(file, start=1):
            yield _decoded(line, f"{path}, line {number}")
    if number != promised:
        raise UserError(
            f"{path}, line {number}: the last one, too early or too late",
            found=f"{number} records",
            expected=f"the {promised} records that the manifest promises",
            do="dump again; a file cut short gives no verdict",
        )


def _decoded(line: bytes, where: str) -> Record:
    problem = "the line is cut short" if not line.endswith(b"\n") else None
    record: Record | None = None
    if problem is None:
        try:
            record = _decoder.decode(line)
            if record.projection().shape != (SKETCH_SIZE,):
                problem = f"a sketch of {record.projection().size} numbers"
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
            problem = str(error)
    if record is None or problem is not None:
        raise UserError(
            f"{where}: not a record",
            found=problem or "nothing",
            expected=f"one whole JSON record with a sketch of {SKETCH_SIZE} numbers",
            do="dump again; a file cut short gives no verdict",
        )
    return record


def frame_path(folder: Path, frame: int) -> Path:
    """Where a dump keeps a decoded frame."""
    return folder / "frames" / f"{frame:06d}.png"


def to_json(value: Any) -> bytes:
    """Indented JSON of a struct or plain values, with a newline at its end. NaN and infinity become null."""
    return msgspec.json.format(encode(value), indent=1) + b"\n"
