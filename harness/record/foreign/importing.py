"""Importing: what another tool recorded becomes a dump."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import reading
from waypoint_parity.harness.record.foreign import fastvideo, model_debugging, msprobe, polygraphy, sglang, tensors
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes, check_words
from waypoint_parity.harness.record.foreign.keys import KeyRules, Keys, Renames
from waypoint_parity.harness.record.foreign.told import Told
from waypoint_parity.harness.record.record_check import self_contradiction
from waypoint_parity.harness.record.records import DUMP_SCHEMA, Manifest, Record, is_dump
from waypoint_parity.harness.record.writer import DumpWriter, replacing_dump
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.taps import Observation

_HEAD = 1 << 16
# Tensors whose statistics are taken at once.
_AT_ONCE = 256
_PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


class Format(Protocol):
    """A format of another tool."""

    NAME: str

    def recognises(self, source: Path, head: bytes) -> bool:
        """Whether a source is of it, by its first bytes and what lies in it."""
        ...

    def read(self, source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
        """What a source holds, in its order. Raises UserError for one that is broken."""
        ...


# The first that recognises a source is its format: what holds plain tensors may be many things.
FORMATS: tuple[Format, ...] = (fastvideo, msprobe, model_debugging, sglang, polygraphy, tensors)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How a source is imported.

    `family`: whose sites the names are, after `renames`; none of them if empty. `dtype`: the precision of its run, told
    by its tensors if not given. `keep_tensors`: keep them in the dump, where errors are exact.
    """

    asked: Asked = field(default_factory=Asked)
    rules: KeyRules = field(default_factory=KeyRules)
    renames: Renames = field(default_factory=Renames)
    family: str = ""
    dtype: str | None = None
    keep_tensors: bool = True

    def __post_init__(self) -> None:
        check_words("--dtype", [] if self.dtype is None else [self.dtype])


def import_dump(source: Path, out: Path, wanted: Wanted) -> tuple[Manifest, str]:
    """Write the dump of what `source` holds into the folder `out`: its manifest, and the name of the source's format.

    Raises UserError for a source that is no such dump, or is broken. Then an earlier dump in `out` is as it was;
    where there is none, what was read stays, as a dump that is incomplete.
    """
    found_in = format_of(source)
    if source.resolve().is_relative_to(out.resolve()):
        raise UserError(
            f"{out}: the dump would replace its own source",
            found=f"{source} within it",
            expected="another folder",
            do="name one with --out",
        )
    if wanted.asked.run and found_in is not fastvideo:
        raise UserError(
            f"{source}: has no run {wanted.asked.run}",
            found=f"{found_in.NAME}, which holds one run",
            expected="--run 0, or a trace to which several runs were appended",
            do="leave out --run",
        )
    family = family_named(wanted.family)
    notes, keys = Notes(), Keys(wanted.rules, wanted.renames)
    manifest = _manifest(source, wanted)
    dtypes = Counter[str]()
    unknown: set[str] = set()
    contradictory: list[str] = []
    keep = ("*",) if wanted.keep_tensors else ()
    with replacing_dump(out) as place, DumpWriter(place, manifest, keep) as writer:
        for number, found in enumerate(found_in.read(source, wanted.asked, notes), start=1):
            if (key := keys.of(found, notes)) is None:
                continue
            if wanted.family and family.sites.of(key.site) is None:
                unknown.add(key.site)
            manifest.units = max(manifest.units or 0, key.unit + 1)
            dtypes[_write(writer, key, found, contradictory)] += 1
            if number % _AT_ONCE == 0:
                writer.end_pass()
        writer.end_pass()
        if not manifest.observed:
            raise UserError(
                f"{source}: holds nothing to import",
                found=", ".join(notes.all) or "no value",
                expected="values of modules",
                do="give --inputs where there are inputs alone, or correct --rename",
            )
        manifest.expected = manifest.observed
        manifest.numerics = {"dtype": wanted.dtype or _precision(dtypes, source)}
        if unknown:
            notes.say(f"{len(unknown)} names are no sites of {wanted.family}: {listed(sorted(unknown))}.")
        if contradictory:
            notes.say(f"{len(contradictory)} records contradict themselves, first {contradictory[0]}.")
        manifest.notes = notes.all
    return manifest, found_in.NAME


def format_of(source: Path) -> Format:
    """The format of a source, by what it holds. Raises UserError where it has none that can be imported."""
    head = b""
    with reading(source):
        if not source.is_dir():
            with source.open("rb") as file:
                head = file.read(_HEAD)
    if source.is_dir() and is_dump(source):
        raise UserError(
            f"{source}: is a dump already", found="a manifest", expected="a dump of another tool", do="compare it: diff"
        )
    if b"[nn.Mod]" in head or (b"aten::" in head and b"->" in head):
        raise UserError(
            f"{source}: text of torch's DebugMode is not imported",
            found="operations in the order of their lines, without names, each with one number",
            expected="values by the names of modules",
            do="save the outputs of modules as tensors: two ports hardly ever run the same list of operations",
        )
    for each in FORMATS:
        if each.recognises(source, head):
            return each
    raise UserError(
        f"{source}: is no dump that can be imported",
        found="a folder" if source.is_dir() else repr(head[:40]),
        expected=listed([each.NAME for each in FORMATS]),
        do="name the file or folder that the tool wrote; docs/import.md has examples",
    )


def _write(writer: DumpWriter, key: Key, found: Found, contradictory: list[str]) -> str:
    """Write one value; returns its dtype, empty where that is not known. Adds what it contradicts in itself."""
    if isinstance(found.value, Tensor):
        writer.observe(Observation(key, found.sigma, found.value))
        return str(found.value.dtype).removeprefix("torch.")
    record = _record(key, found.sigma, found.value)
    writer.take(record)
    if record.nan and None not in (record.min, record.max):
        contradictory.append(f"{key}: NaN in its sums, min {record.min:g} and max {record.max:g}")
    elif (wrong := self_contradiction(record)) is not None:
        contradictory.append(f"{key}: {wrong}")
    return found.value.dtype or ""


def _record(key: Key, sigma: float | None, value: Told) -> Record:
    fields = {name: getattr(value, name) for name in value.__dataclass_fields__}
    return Record(**key._asdict(), sigma=sigma, **fields)


def _precision(dtypes: Counter[str], source: Path) -> str:
    """The float type of most values; of two that are equally many the narrower one."""
    known = {name: count for name, count in dtypes.items() if name in _PRECISIONS}
    if not known:
        raise UserError(
            f"{source}: does not tell in which precision its run computed",
            found=listed(sorted(filter(None, dtypes))),
            expected="values with a float type",
            do="state it: --dtype fp32 or --dtype bf16",
        )
    width = {name: torch.finfo(getattr(torch, name)).bits for name in known}
    return _PRECISIONS[max(known, key=lambda name: (known[name], -width[name]))]


def _manifest(source: Path, wanted: Wanted) -> Manifest:
    return Manifest(
        schema=DUMP_SCHEMA,
        family=wanted.family,
        implementation=str(source),
        numerics={"dtype": wanted.dtype or ""},
        description={},
        checkpoint_digest="",
        checkpoint_origin="",
        scenario_digest="",
        scenario_name="",
        variant=None,
        sigmas=[],
        torch="",
        threads=0,
        platform="",
        source_revision=None,
        expected=0,
        observed=0,
        seconds=0.0,
        complete=False,
    )
