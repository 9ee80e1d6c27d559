"""Records and manifests: what a dump holds, as JSON."""

import base64
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.blocks import FilePart, blocks, not_a_record
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.family import FirstFamily, family_named
from waypoint_parity.harness.run.keys import Key

DUMP_SCHEMA = "waypoint-parity/dump/2"
# Before units and branches had names: a unit was a `frame`, and there was one family.
FIRST_SCHEMA, FIRST_FAMILY = "waypoint-parity/dump/1", "waypoint"
RECORDS_NAME = "activations.jsonl"
MANIFEST_NAME = "manifest.json"
TENSORS_NAME = "tensors.safetensors"
FRAMES = "frames"
SAMPLES = 8
# k of the sketch: element i, its sign drawn, is added into number i mod k. Measured on 65536 elements, one thread, by
# `pytest tests/bench/test_sketch.py -s --benchmark-only`; the errors are those of an estimated ||a - b||:
#
#     map                    k   relative error   where one channel of 64 differs   ns per element   bytes
#     buckets               31             14 %                              12 %              0.8     168
#     buckets               61              9 %                               8 %              0.7     328
#     buckets               64              9 %                              69 %              0.7     344
#     buckets              127              6 %                               7 %              0.6     680
#     scattered             61              8 %                               9 %              2.6     328
#     dense sign matrix     61              9 %                               9 %              4.3     328
#     dense sign matrix    127              5 %                               6 %               15     680
#
# A drawn number for each element (scattered) and a dense matrix buy nothing for their cost. A prime k spreads a
# channel, a stride of 2**n elements, over all numbers; a power of two leaves it in one, which then decides alone. The
# error falls only with 1/sqrt(2k), and most of a record is its sketch: 127 would double what a diff has to read.
SKETCH_SIZE = 61
SKETCH_SEED = 20260121  # part of the record schema: another seed is another schema
# Five hours at 60 frames a second; what reads a dump sets a bit for every unit.
MOST_UNITS = 1 << 20
Unit = Annotated[int, msgspec.Meta(ge=0, lt=MOST_UNITS)]
# Of elements, and along an axis: more are counted nowhere.
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
# That of other tools says what it is.
_DIGEST = "^([0-9a-f]{16}|crc32:[0-9a-fA-F]+)$"
_NO_NUMBER = re.compile(rb"\b(NaN|Infinity)\b")


class Exact(msgspec.Struct, frozen=True):
    """What an observation would be without any rounding: its L2 norm, and its sketch in fp64.

    `distance`: how far the observation is from it, relative to `norm`. `spread`: how far rounding alone takes it by
    then, the root mean square of the session's disturbed lanes (harness.compare.exact).
    """

    norm: Annotated[float, msgspec.Meta(gt=0)]
    distance: Annotated[float, msgspec.Meta(ge=0)]
    spread: Annotated[float, msgspec.Meta(ge=0)]
    sketch: Annotated[bytes, msgspec.Meta(min_length=8 * SKETCH_SIZE, max_length=8 * SKETCH_SIZE)]

    def projection(self) -> npt.NDArray[np.float64]:
        """The sketch [SKETCH_SIZE]."""
        return np.frombuffer(self.sketch, "<f8")


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One observation. Statistics are over the finite elements, None where there are none.

    A record of statistics alone, of another tool, has no sketch, and None for whatever that tool did not write. Its
    statistics are off by `resolution` of the tensor's magnitude at the most, and each of `nan`, `posinf` and `neginf`
    that is not 0 says "at least so many".
    """

    unit: Unit
    phase: str
    step: Count
    site: str
    call: Count
    sigma: float | None
    shape: list[Count] | None
    dtype: str | None
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    absmean: float | None
    rms: float | None
    nan: Count
    posinf: Count
    neginf: Count
    sample: list[float | None] = []
    sketch: str = ""
    resolution: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    branch: str = ""
    # xxh3-64 of the bytes in the official layout: equality bit for bit, which no statistic proves. Absent where an
    # accelerator would have had to send the tensor home for it.
    digest: Annotated[str, msgspec.Meta(pattern=_DIGEST)] | None = None
    # Of the sites of a cache, slot by slot (harness.run.family.Caches); left out where they are not told.
    slots: list[str] | None = None
    # Left out where nobody followed the run, or could.
    exact: Exact | None = None

    def __post_init__(self) -> None:
        if self.sketch and (self.shape is None or self.dtype is None):
            raise ValueError("a record with a sketch has a shape and a dtype")

    @property
    def key(self) -> Key:
        """Identity of the observation."""
        return Key(self.unit, self.phase, self.step, self.site, self.branch, self.call)

    @property
    def non_finite(self) -> tuple[int, int, int]:
        """Counts of NaN, +inf and -inf."""
        return self.nan, self.posinf, self.neginf

    def projection(self) -> npt.NDArray[np.float32]:
        """The sketch [SKETCH_SIZE]; empty where there is none."""
        return np.frombuffer(base64.b64decode(self.sketch, validate=True), "<f4")


class PassSites(msgspec.Struct, frozen=True):
    """What a right implementation shows in one step of some units, which are ranges [first, stop), in order.

    A site of one branch has @ and the branch behind its name.
    """

    phase: str
    step: int
    units: list[tuple[int, int]]
    sites: list[str]


class Followed(msgspec.Struct, frozen=True):
    """How a run was followed: by so many disturbed lanes, and with exact values of so many observations.

    `unfollowed`: operations behind which there are none.
    """

    lanes: int
    observations: int
    unfollowed: list[str]


class Manifest(msgspec.Struct, kw_only=True):
    """Identity of a run; `complete` only once the last record is on disk.

    What another tool did not write is not recorded: an empty digest, no family, no release of torch.
    """

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
    family: str = FIRST_FAMILY
    # What follows is left out by engines that do not know it.
    # How many units were generated, and what a right implementation shows of them. `selection` says which of that was
    # to be recorded, None for all.
    units: int | None = None
    passes: list[PassSites] | None = None
    selection: Selection | None = None
    # SHA-256 of every tensor of the scenario (values_digest), with what the checkpoint gives.
    inputs: dict[str, str] | None = None
    # The caches, as the family describes them.
    caches: list[dict[str, Any]] | None = None
    # The architecture, and the instruction set that torch computes with: another one rounds otherwise.
    processor: str | None = None
    # What recording changed of what was computed: "bit-identical" where nothing, None where nobody looked.
    observer: str | None = None
    # Of a run whose records have exact values beside them.
    followed: Followed | None = None
    # The sites that the implementation says it has, whatever it showed and whatever was recorded.
    sites: list[str] | None = None
    # Why the run ended before its session did.
    ended: str | None = None
    # What whoever compares this run must know of how its records came about.
    notes: list[str] = []
    # The digest of every other file of the dump, by its name; and that of this manifest (harness.record.seal).
    files: dict[str, str] | None = None
    seal: str | None = None


def is_whole(dtype: str | None) -> bool:
    """Whether a record is of whole numbers or of true and false."""
    return dtype is not None and dtype.startswith(("int", "uint", "bool"))


def left_out(field: msgspec.structs.FieldInfo) -> Any:
    """What a field is where a file leaves it out; NODEFAULT where it may not."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


_decoder = msgspec.json.Decoder(Record)
_encode = msgspec.json.Encoder().encode


def is_dump(folder: Path) -> bool:
    """Whether `folder` holds a dump, of whatever schema version, finished or not."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return str(manifest.get("schema")).startswith(DUMP_SCHEMA.rpartition("/")[0])


def read_manifest(folder: Path, *, unfinished: bool = False) -> Manifest:
    """The manifest of a dump. Raises UserError for a folder that is no dump, another schema, or an unfinished run.

    `unfinished`: take one that ended before its session did, too.
    """
    path = folder / MANIFEST_NAME
    manifest = _decoded_manifest(path)
    if "dtype" not in manifest.numerics:
        raise UserError(
            f"{path}: does not say in which precision the run computed",
            found=f"numerics with {', '.join(manifest.numerics) or 'nothing'}",
            expected="numerics with a dtype",
            do="correct what wrote the dump",
        )
    if not (manifest.complete or unfinished):
        raise UserError(
            f"{folder}: the dump is incomplete",
            found=manifest.ended or "an unfinished run",
            expected="complete: true in the manifest",
            do="run the dump again; `diff` compares what there is",
        )
    return manifest


def _decoded_manifest(path: Path) -> Manifest:
    """The manifest in a file, of either schema."""
    do = "name the folder that `waypoint-parity dump --out` wrote"
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if values.get("schema") == FIRST_SCHEMA:
            first = cast(FirstFamily, family_named(FIRST_FAMILY))
            values = {**first.upgraded(values), "schema": DUMP_SCHEMA, "family": FIRST_FAMILY}
        manifest = msgspec.convert(values, Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        expected = f"a manifest of schema {DUMP_SCHEMA}"
        raise UserError(f"{path}: cannot be read as a manifest", found=str(error), expected=expected, do=do) from error
    if manifest.schema != DUMP_SCHEMA:
        raise UserError(
            f"{path}: unknown schema of a manifest",
            found=manifest.schema,
            expected=DUMP_SCHEMA,
            do=f"{do}, or use a release of waypoint-parity that knows the schema",
        )
    return manifest


def read_records(folder: Path) -> Iterator[Record]:
    """The records of a dump in file order, one at a time. Raises UserError, naming file and line, for a broken one.

    A file that ends before or after the record that its manifest promises as the last raises UserError too.
    """
    part, number = FilePart(folder / RECORDS_NAME), 0
    manifest = read_manifest(folder, unfinished=True)
    for first, _, content in blocks(part):
        for index, line in enumerate(content.split(b"\n")[:-1], start=first):
            yield decode_record(part, index, line)
            number = index + 1
    check_promised(part.path, number, manifest)


def check_promised(path: Path, number: int, manifest: Manifest) -> None:
    """Raise UserError unless a file of `number` records has as many as its manifest promises.

    What a process leaves that was killed promises nothing.
    """
    promised = manifest.observed
    if number != promised and (manifest.complete or manifest.ended is not None):
        raise UserError(
            f"{path}, line {number}: the last one, too early or too late",
            found=f"{number} records",
            expected=f"the {promised} records that the manifest promises",
            do="dump again; a file cut short gives no verdict",
        )


def decode_record(part: FilePart, index: int, line: bytes) -> Record:
    """The record on line `index` of a part. Raises UserError, naming file and line, where it is none."""
    try:
        record = _decoded(line)
        numbers = len(record.projection())
        problem = None if numbers in (0, SKETCH_SIZE) else f"a sketch of {numbers} numbers"
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        problem = str(error)
        if _NO_NUMBER.search(line):
            problem += "; JSON knows no NaN and no infinity: write null, and count them in nan, posinf and neginf"
    if problem is not None:
        raise not_a_record(
            part, index, problem, f"one whole JSON record, its sketch of {SKETCH_SIZE} numbers or left out"
        )
    return record


def _decoded(line: bytes) -> Record:
    """The record on a line, of either schema."""
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError:
        values = msgspec.json.decode(line, type=dict[str, Any])
        if "frame" not in values:
            raise
        return msgspec.convert({"unit": values["frame"], **values}, Record)


class PictureAt(NamedTuple):
    """Which picture of a session: one that a unit shows in a step, by its number there."""

    unit: int
    step: int = 0
    number: int = 0

    def __str__(self) -> str:
        """As a person counts them: the unit, and where it has several pictures the others behind it."""
        return str(self.unit) if self[1:] == (0, 0) else ".".join(map(str, self))


def picture_path(folder: Path, at: PictureAt) -> Path:
    """Where a dump keeps a decoded picture."""
    behind = "" if at[1:] == (0, 0) else f"-{at.step}-{at.number}"
    return folder / FRAMES / f"{at.unit:06d}{behind}.png"


def kept_pictures(folder: Path) -> list[PictureAt]:
    """The decoded pictures that a dump keeps, in their order; files of other names are none of it."""
    kept = []
    for path in (folder / FRAMES).glob("*.png"):
        name = re.fullmatch(r"(\d+)(?:-(\d+)-(\d+))?", path.stem, re.ASCII)
        at = None if name is None else PictureAt(*(int(number or 0) for number in name.groups()))
        if at is not None and picture_path(folder, at) == path:
            kept.append(at)
    return sorted(kept)


def encode(value: Any) -> bytes:
    """JSON of a struct or plain values. NaN and infinity become null."""
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return _encode(_spelt(msgspec.to_builtins(value)))


def _spelt(value: Any) -> Any:
    """The same with names of files as their bytes spell them: not every locale has their characters."""
    if isinstance(value, str):
        return spelt(value)
    if isinstance(value, dict):
        return {_spelt(key): _spelt(item) for key, item in value.items()}
    return [_spelt(item) for item in value] if isinstance(value, list | tuple) else value


def spelt(name: str) -> str:
    """A name, perhaps of a file, with nothing in it that UTF-8 cannot hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def to_json(value: Any) -> bytes:
    """Indented JSON of a struct or plain values, with a newline at its end. NaN and infinity become null."""
    return msgspec.json.format(encode(value), indent=1) + b"\n"


def records_mentioning(folder: Path, words: Collection[str]) -> Iterator[Record]:
    """The records of a dump whose line holds one of `words`: those of sites with it in their name, and perhaps others.

    Raises UserError, naming file and line, for a broken one of these, and for a file that ends before or after the
    record that its manifest promises as the last. To decode every record takes ten times as long.
    """
    sought = [word.encode() for word in words]
    part, number = FilePart(folder / RECORDS_NAME), 0
    manifest = read_manifest(folder, unfinished=True)
    for first, lines, content in blocks(part):
        for index, line in enumerate(content.split(b"\n")[:-1], start=first):
            if any(word in line for word in sought):
                yield decode_record(part, index, line)
        number = first + lines
    check_promised(part.path, number, manifest)
