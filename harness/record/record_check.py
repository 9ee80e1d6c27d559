"""What is wrong with a record by itself: fields, statistics that contradict each other, and another projection."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from waypoint_parity.harness.errors import nearest
from waypoint_parity.harness.record.kept_tensors import open_tensors
from waypoint_parity.harness.record.records import (
    RECORDS_NAME,
    SAMPLES,
    SKETCH_SIZE,
    TENSORS_NAME,
    Record,
    read_records,
)
from waypoint_parity.harness.record.statistics import Statistics, summarise
from waypoint_parity.harness.run.digest import fast_digest

ProblemKind = Literal[
    "manifest",
    "record",
    "twice",
    "order",
    "site",
    "shape",
    "statistics",
    "digest",
    "another projection",
    "tensors",
    "pictures",
    "seal",
    "promise",
    "missing",
]
PAGE = "docs/format.md"
# Statistics are taken in fp32 at least, and written with nine digits.
_ROUNDING = 1e-5
# Sketches of the same values, summed in another order, are apart by far less.
_ALIKE = 1e-3
# A sketch's norm is a chi-square of some 61 numbers where many elements carry the values: see `_norm_problem`.
_MANY_ELEMENTS, _MANY_NUMBERS, _LEAST, _MOST = 16 * SKETCH_SIZE, 10, 1 / 8, 4
# Two records without digests are of the same values where rms and sample are this near, so many elements of the sample
# being of their own; their sketches are then this near, relative to the norm.
_RESEMBLING, _TELLING, _UNRELATED = 1e-3, 6, 0.5
# The field of a number that is written with more digits than it has.
_SPELLING = "sample, min, max"
_STATISTICS = ("mean", "std", "min", "max", "absmean", "rms")
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and not dtype.is_complex
}
_FULL_NAMES = {"bf16": "bfloat16", "fp16": "float16", "f16": "float16", "fp32": "float32", "f32": "float32"}
_SKETCH_AS_IT_IS = (
    f"compute it as {PAGE} says under `The sketch`; harness/record/format/vectors.json has values to try it on"
)


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is wrong with a dump: where, what was found there, what was expected, and what to do."""

    kind: ProblemKind
    file: str
    found: str
    expected: str
    do: str
    line: int | None = None
    key: str = ""
    field: str = ""


class Wrong(msgspec.Struct, frozen=True):
    """A problem of a record, before its file and line are known."""

    kind: ProblemKind
    field: str
    found: str
    expected: str
    do: str


def wrong_fields(values: Mapping[str, Any], kind: type[msgspec.Struct], problem: ProblemKind) -> list[Wrong]:
    """Every field of a JSON object that is missing, misspelt, or of another type than the struct has."""
    found = []
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    absent = fields.keys() - values.keys()
    meant = {name: nearest(name, absent) for name in values.keys() - fields.keys()}
    for name, known in fields.items():
        if name in values:
            try:
                msgspec.convert(values[name], known.type)
            except msgspec.ValidationError as error:
                do = f"correct it: {PAGE} has the type of every field"
                found.append(Wrong(problem, name, f"{_short(values[name])} ({error})", _type_name(known.type), do))
        elif known.required and name not in meant.values():
            do = "write it; null where it is not known, if that is allowed"
            found.append(Wrong(problem, name, "no such field", _type_name(known.type), do))
    for name, right in meant.items():
        if right is not None:
            found.append(Wrong(problem, name, f"a field {name}", f"perhaps {right}", "correct its name"))
    return found


def contradictions(record: Record) -> Iterator[Wrong]:
    """What a record contradicts in itself. One of statistics alone may leave out whatever it does not know."""
    if record.dtype is not None and record.dtype not in DTYPES:
        perhaps = _FULL_NAMES.get(record.dtype.lower()) or nearest(record.dtype.lower(), DTYPES)
        expected = "a type as torch spells it" + (f", perhaps {perhaps}" if perhaps else "")
        yield Wrong("shape", "dtype", record.dtype, expected, "spell it as torch does: float32, bfloat16, uint8, bool")
    if record.shape is None:
        yield from _unlike_statistics(record)
        return
    elements = math.prod(record.shape)
    if elements >= 1 << 63:
        yield Wrong("shape", "shape", f"{record.shape}", "a tensor that fits into memory", "write the tensor's shape")
        return
    special = sum(record.non_finite)
    if special > elements:
        found, expected = f"{special} elements that are not finite", f"at most {elements}, by the shape {record.shape}"
        yield Wrong("statistics", "nan, posinf, neginf", found, expected, "correct the counts, or the shape")
        return
    yield from _unlike_statistics(record)
    if not record.sketch:
        return
    yield from _unlike_presence(record, elements - special)
    yield from _unlike_sample(record, elements)
    if (wrong := _norm_problem(record, elements - special)) is not None:
        yield wrong


def self_contradiction(record: Record, tensor: Tensor | None = None) -> str | None:
    """How a record contradicts itself, or its tensor where one is kept, in words; None where it does not.

    Another spelling of a type or a number is no contradiction.
    """
    whole = sampled_whole(record) if tensor is None else None
    if tensor is not None and DTYPES.get(record.dtype or "") is tensor.dtype and record.shape == [*tensor.shape]:
        told = unlike_values(record, tensor)
    elif tensor is not None:
        return f"{record.dtype} {record.shape}, of {tensor.dtype} {[*tensor.shape]}"
    elif whole is not None:
        told = unlike_values(
            msgspec.structs.replace(record, digest=record.digest if tells_every_bit(record) else None), whole
        )
    else:
        told = iter(())
    for wrong in (*contradictions(record), *told):
        if wrong.kind != "shape" and wrong.field != _SPELLING:
            return f"{wrong.field} {wrong.found}, expected {wrong.expected}".strip()
    return None


def self_contradictions(folder: Path) -> str | None:
    """How many records of a dump contradict themselves or their tensors, and the first one; None where none does.

    Raises UserError for broken records or tensors.
    """
    kept = open_tensors(folder) if (folder / TENSORS_NAME).is_file() else None
    count, first = 0, ""
    for line, record in enumerate(read_records(folder), start=1):
        has = kept is not None and str(record.key) in kept.names
        wrong = self_contradiction(record, kept.unchecked(str(record.key)) if kept is not None and has else None)
        count += wrong is not None
        if wrong is not None and not first:
            first = f"line {line}, {record.key}: {wrong}"
    return f"{count} records of {folder / RECORDS_NAME} contradict themselves, first {first}" if count else None


def _unlike_presence(record: Record, finite: int) -> Iterator[Wrong]:
    """Statistics that are null though there are finite elements, or given though there are none."""
    for name in _STATISTICS:
        value = getattr(record, name)
        if (value is None) != (finite == 0):
            expected = "null: no element is finite" if finite == 0 else f"a number: {finite} elements are finite"
            do = "take statistics over the finite elements; null where there are none"
            yield Wrong("statistics", name, str(value).replace("None", "null"), expected, do)


def _unlike_statistics(record: Record) -> Iterator[Wrong]:
    """The first of the statistics, as far as they are known, that no values have together with the others."""
    unknown = math.nan
    mean, std, low, high, absmean, rms = (
        unknown if value is None else value for value in (getattr(record, name) for name in _STATISTICS)
    )
    magnitude = max(abs(low), abs(high))
    scale = magnitude or 1.0
    near = (_ROUNDING + record.resolution) * magnitude
    # Products: a power that leaves the range raises.
    squares = [value / scale * (value / scale) for value in (std, mean, rms)]
    deviation = squares[0] + squares[1] - squares[2]
    by_others = scale * math.sqrt(max(0.0, squares[2] - squares[1]))
    # By what is wrong: a comparison with what is not known is never true.
    rules = [
        ("min, max", low > high, f"min {low:g}, max {high:g}", "min up to max"),
        ("mean", mean < low - near or mean > high + near, f"mean {mean:g}", f"from min {low:g} to max {high:g}"),
        ("std", std < 0, f"std {std:g}", "0 or more"),
        ("rms", rms < abs(mean) - near, f"rms {rms:g}", f"at least |mean|, {abs(mean):g}"),
        ("rms", rms > magnitude + near, f"rms {rms:g}", f"at most the largest magnitude, {magnitude:g}"),
        ("absmean", absmean < abs(mean) - near, f"absmean {absmean:g}", f"at least |mean|, {abs(mean):g}"),
        ("absmean", absmean > rms + near, f"absmean {absmean:g}", f"at most rms, {rms:g}"),
        ("std", abs(deviation) > 2 * near / scale, f"std {std:g}", f"{by_others:g}, which is sqrt(rms^2 - mean^2)"),
    ]
    do = "take all of them over the same finite elements, std over n and not n - 1, sums in fp64"
    broken = [rule for rule in rules if rule[1]]
    # What follows from the first one is no problem of its own.
    yield from (Wrong("statistics", field, found, expected, do) for field, _, found, expected in broken[:1])


def _unlike_sample(record: Record, elements: int) -> Iterator[Wrong]:
    """A sample that is not of these elements."""
    do = "write the elements at round(i * (n - 1) / 7) for i from 0 to 7; null for one that is not finite"
    if len(record.sample) != SAMPLES:
        yield Wrong(
            "statistics", "sample", f"{len(record.sample)} elements", f"{SAMPLES}, for an empty tensor null", do
        )
        return
    if elements == 0 and any(value is not None for value in record.sample):
        yield Wrong("statistics", "sample", "numbers", "null: the tensor is empty", do)
    if record.min is None or record.max is None or not elements:
        return
    limits = torch.finfo(torch.float32)
    near = _ROUNDING * max(abs(record.min), abs(record.max)) + limits.tiny
    # Elements are as they are, the others as fp32 reads them: fp64 values beyond it are none of theirs.
    known = [x for x in record.sample if x is not None and abs(x) <= limits.max]
    outside = [x for x in known if not record.min - near <= x <= record.max + near]
    if outside:
        yield Wrong("statistics", "sample", f"{outside[0]:g}", f"from min {record.min:g} to max {record.max:g}", do)
    written = [x for x in (*record.sample, record.min, record.max) if x is not None and x != float(f"{x:.9g}")]
    if written:
        expected = f"{written[0]:.9g}, with nine significant digits"
        yield Wrong("statistics", _SPELLING, repr(written[0]), expected, "write numbers as %.9g does")
    if record.sample.count(None) and not sum(record.non_finite):
        yield Wrong("statistics", "sample", "null", "a number: every element is finite", do)


def _norm_problem(record: Record, finite: int) -> Wrong | None:
    """A sketch whose norm no projection to 61 numbers gives of values with this rms.

    A number of the sketch is a signed sum: of at most ceil(n / 61) elements its square is at most so many times theirs.
    Up to 61 elements nothing is summed, and the norms are equal. Where many elements carry the values, and many numbers
    the sketch, the ratio of the squares is near 1: beyond 1/8 and 4 lies one of 10 million.
    """
    sketch = record.projection().astype(np.float64)
    if record.rms is None or record.shape is None or not np.isfinite(sketch).all():
        return None
    ours, norm = float(np.linalg.norm(sketch)), record.rms * math.sqrt(finite)
    elements = math.prod(record.shape)
    most = math.sqrt(-(-elements // SKETCH_SIZE))
    expected = None
    if ours > norm * most * (1 + _ALIKE) or (most == 1 and ours < norm * (1 - _ALIKE)):
        expected = f"{norm:g}" if most == 1 else f"at most {norm * most:g}"
    elif norm and _is_spread(record, norm, sketch) and not _LEAST <= ours / norm * (ours / norm) <= _MOST:
        expected = f"about {norm:g}, within 20 %"
    if expected is None:
        return None
    found = f"another projection, or another scale: a sketch of norm {ours:g}"
    return Wrong("another projection", "sketch", found, f"{expected}, by rms * sqrt(n)", _SKETCH_AS_IT_IS)


def _is_spread(record: Record, norm: float, sketch: npt.NDArray[np.float64]) -> bool:
    """Whether many elements carry the values, and many numbers the sketch; or none of these does."""
    largest = max(abs(record.min or 0.0), abs(record.max or 0.0))
    squares = np.square(sketch / (np.abs(sketch).max() or 1.0))
    many = bool(largest) and norm / largest >= math.sqrt(_MANY_ELEMENTS)
    return many and (not squares.any() or squares.sum() ** 2 / np.square(squares).sum() >= _MANY_NUMBERS)


def unlike_values(record: Record, tensor: Tensor) -> Iterator[Wrong]:
    """What a record says differently of its tensor, whose dtype and shape it has."""
    values = summarise(tensor)
    sketch, recorded = np.frombuffer(values.sketch, "<f4").astype(np.float64), record.projection().astype(np.float64)
    apart = float(np.linalg.norm(sketch - recorded)) if record.sketch else 0.0
    same_sketch = not math.isfinite(apart) or apart <= _ALIKE * float(np.linalg.norm(sketch))
    unlike = list(_unlike_measured(record, values))
    same_digest = record.digest is None or record.digest == fast_digest(tensor.cpu())
    if unlike and not same_sketch and (record.digest is None or not same_digest):
        found = f"other values: {unlike[0].field} {unlike[0].found}, by the tensor {unlike[0].expected}"
        do = "write the record from the tensor that is kept"
        yield Wrong("tensors", "", found, "the tensor that the record tells of", do)
        return
    yield from unlike
    if not same_sketch:
        yield another_projection("statistics right", f"a sketch {_relative(apart, sketch)} from theirs")
    if not same_digest:
        yield Wrong(
            "digest",
            "digest",
            str(record.digest),
            fast_digest(tensor.cpu()),
            "take xxh3-64 of the bytes rows first, little-endian, as 16 hexadecimal digits; or leave it out",
        )


def another_projection(but: str, found: str) -> Wrong:
    """The problem of a sketch that is not that of the values."""
    expected = "the sketch of the same values"
    return Wrong("another projection", "sketch", f"another projection: {but}, {found}", expected, _SKETCH_AS_IT_IS)


def unlike_projection(record: Record, right: Record) -> Wrong | None:
    """What is wrong with the sketch of a record, by another one of the same observation.

    By equal digests; where there is none, by equal statistics and elements, of tensors that are not a few numbers.
    """
    if not (record.sketch and right.sketch):
        return None
    ours, theirs = (each.projection().astype(np.float64) for each in (record, right))
    apart, norm = float(np.linalg.norm(ours - theirs)), float(np.linalg.norm(theirs))
    if not math.isfinite(apart):
        return None
    if None not in (record.digest, right.digest):
        same = record.digest != right.digest or apart <= _ALIKE * norm
        return (
            None
            if same
            else another_projection("equal digests", f"a sketch {apart / (norm or 1):.2g} of its norm away")
        )
    if apart <= _UNRELATED * norm or not _is_near(record.rms, right.rms, _RESEMBLING * (right.rms or 0.0)):
        return None
    near = _RESEMBLING * (right.rms or 0.0)
    pairs = list(zip(record.sample, right.sample, strict=False))
    if len({value for value in right.sample if value}) < _TELLING or not all(_is_near(*pair, near) for pair in pairs):
        return None
    return another_projection(
        "or another order of elements: equal rms and sample", f"a sketch {apart / norm:.2g} of its norm away"
    )


def _relative(apart: float, sketch: Any) -> str:
    norm = float(np.linalg.norm(sketch))
    return f"{apart / norm:.2g} of its norm" if norm else f"{apart:.2g}"


def _unlike_measured(record: Record, values: Statistics) -> Iterator[Wrong]:
    """Statistics and sample that are not those of the values."""
    do = f"compute it as {PAGE} says under `Statistics`"
    counts = (values.nan, values.posinf, values.neginf)
    if record.non_finite != counts:
        yield Wrong("statistics", "nan, posinf, neginf", str(record.non_finite), str(counts), do)
    near = (_ROUNDING + record.resolution) * max(abs(values.min or 0.0), abs(values.max or 0.0))
    for name in _STATISTICS:
        found, expected = getattr(record, name), getattr(values, name)
        if found is None and not record.sketch:
            continue
        if not _is_near(found, expected, near):
            yield Wrong("statistics", name, _number(found), _number(expected), do)
    pairs = zip(record.sample, values.sample, strict=False)
    for place, (found, expected) in enumerate(pairs):
        # Of fp64 an element may be far beyond the largest of fp32, which the others are.
        if not _is_near(found, expected, max(near, _ROUNDING * abs(expected or 0.0))):
            yield Wrong("statistics", f"sample[{place}]", _number(found), _number(expected), do)
            return


def _is_near(found: float | None, expected: float | None, near: float) -> bool:
    if found is None or expected is None:
        return found is expected
    return abs(found - expected) <= near


def _number(value: float | None) -> str:
    return "null" if value is None else f"{value:.9g}"


def sampled(record: Record) -> dict[int, float | None]:
    """The elements that a record has, by their places."""
    elements, last = math.prod(record.shape or ()), SAMPLES - 1
    if record.shape is None or len(record.sample) != SAMPLES or not elements:
        return {}
    places = [(2 * i * (elements - 1) + last) // (2 * last) for i in range(SAMPLES)]
    return dict(zip(places, record.sample, strict=True))


def sampled_whole(record: Record) -> Tensor | None:
    """The tensor of a record whose sample has all of its elements; None for a larger one, and where one is null."""
    if record.shape is None or record.dtype not in DTYPES or len(record.sample) != SAMPLES:
        return None
    elements = math.prod(record.shape)
    if not 0 < elements <= SAMPLES:
        return None
    at = sampled(record)
    values = [value for value in at.values() if value is not None]
    if len(values) != elements:
        return None
    try:
        return torch.tensor(values, dtype=torch.float64).to(DTYPES[record.dtype]).reshape(record.shape)
    except (RuntimeError, TypeError):  # a type that holds no plain numbers
        return None


def tells_every_bit(record: Record) -> bool:
    """Whether nine digits tell the bits of the elements: not of fp64, of large whole numbers, and of zeros' signs."""
    dtype = DTYPES[record.dtype or "float64"]
    known = [value for value in record.sample if value is not None]
    if not dtype.is_floating_point:
        return all(abs(value) < 10**9 for value in known)
    return dtype != torch.float64 and all(known)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode(errors="replace")
    return text if len(text) <= 60 else f"{text[:56]} ..."


def _type_name(kind: Any) -> str:
    """A type as JSON calls it."""
    schema = msgspec.json.schema(kind)
    return " or ".join(each.get("type", "object") for each in schema.get("anyOf", [schema]))
