"""Everything that is wrong with one dump, for people who wrote it with an engine of their own."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.contract import unlike_inputs, unlike_models
from waypoint_parity.harness.compare.pictures import unlike_pictures
from waypoint_parity.harness.errors import UserError, listed, nearest
from waypoint_parity.harness.record.blocks import FilePart, blocks
from waypoint_parity.harness.record.kept_tensors import KeptTensors, open_tensors
from waypoint_parity.harness.record.record_check import (
    DTYPES,
    PAGE,
    Problem,
    ProblemKind,
    Wrong,
    contradictions,
    sampled,
    sampled_whole,
    tells_every_bit,
    unlike_projection,
    unlike_values,
    wrong_fields,
)
from waypoint_parity.harness.record.records import (
    FIRST_FAMILY,
    FRAMES,
    MANIFEST_NAME,
    RECORDS_NAME,
    TENSORS_NAME,
    Manifest,
    PictureAt,
    Record,
    check_promised,
    decode_record,
    kept_pictures,
    picture_path,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.record.seal import broken_seals
from waypoint_parity.harness.record.selection import EVERYTHING
from waypoint_parity.harness.run.digest import values_digest
from waypoint_parity.harness.run.family import Family, MarksTold, family_named
from waypoint_parity.harness.run.keys import At, Key, Order, Rung, site_name
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys
from waypoint_parity.harness.run.sites import Kind, kind_of

_FIELDS = frozenset(Record.__struct_fields__)
# So many problems of each kind are told; the others are counted.
MOST_TOLD = 20
# A noise level may be off by its rounding, relative to it: to the type of a run or of a record, else that of a text.
_LEVEL_NEAR = 1e-6
_LEVELS_NEAR = {"bf16": 2.0**-8, "bfloat16": 2.0**-8, "fp16": 2.0**-10, "float16": 2.0**-10}
# More observations than this are not held in memory: of a longer session nothing is called missing.
_MOST_PLANNED = 5_000_000
CHECK_SCHEMA = "waypoint-parity/dump-check/1"


class DumpCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a dump; True where nothing is. `counts` has all, `problems` the first of each kind."""

    schema: str
    dump: str
    records: int
    # Those without a sketch: they prove a divergence or nothing.
    statistics_alone: int
    counts: dict[ProblemKind, int]
    problems: list[Problem]

    def __bool__(self) -> bool:
        return not self.counts


class _RightSession(NamedTuple):
    """What a dump is held against: the observations of a session in their order, and the records of another dump."""

    keys: Sequence[Key]
    by: str
    records: Mapping[Key, Record]


class _Problems:
    """Collects problems, the first of each kind."""

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[ProblemKind] = Counter()
        self.told: list[Problem] = []
        self._folder = folder

    def add(
        self,
        kind: ProblemKind,
        file: str,
        *,
        found: str,
        expected: str,
        do: str,
        line: int | None = None,
        key: str = "",
    ) -> None:
        """A problem of a file, or of a line of it."""
        wrong = Wrong(kind, "", found, expected, do)
        self.of_field(wrong, file, line, key)

    def of_field(self, wrong: Wrong, file: str, line: int | None = None, key: str = "") -> None:
        """A problem of one field."""
        self.counts[wrong.kind] += 1
        if self.counts[wrong.kind] <= MOST_TOLD:
            path = str(self._folder / file) if file else str(self._folder)
            self.told.append(
                Problem(
                    kind=wrong.kind,
                    file=path,
                    line=line,
                    key=key,
                    field=wrong.field,
                    found=wrong.found,
                    expected=wrong.expected,
                    do=wrong.do,
                )
            )

    def raised(self, kind: ProblemKind, file: str, error: UserError, line: int | None = None) -> None:
        """A problem that reading found."""
        self.add(kind, file, found=f"{error.what}: {error.found}", expected=error.expected, do=error.do, line=line)


def check_dump(
    folder: Path,
    checkpoint: Checkpoint | None = None,
    scenario: Scenario | None = None,
    against: Path | None = None,
) -> DumpCheck:
    """Everything that is wrong with the dump in `folder`, by itself and as one of a session.

    `checkpoint` and `scenario` say what its session shows; `against` is a dump of the same session that is right.
    Raises UserError for an `against` that is broken.
    """
    problems = _Problems(folder)
    manifest, family = _manifest(folder, problems)
    session = _session(folder, manifest, checkpoint, scenario, against, problems)
    records = _Records(folder, manifest, family, session, problems)
    for line, record in _lines(folder, problems):
        records.take(line, record)
    records.end()
    _check_files(folder, manifest, family, records.pictures, problems)
    return DumpCheck(
        schema=CHECK_SCHEMA,
        dump=str(folder),
        records=records.count,
        statistics_alone=records.statistics_alone,
        counts=dict(problems.counts),
        problems=problems.told,
    )


# --- the manifest


def _manifest(folder: Path, problems: _Problems) -> tuple[Manifest | None, Family | None]:
    """The manifest, None where it cannot be used; and the family, None where there is none of its name."""
    try:
        values: Mapping[str, Any] = msgspec.json.decode((folder / MANIFEST_NAME).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        problems.add(
            "manifest",
            MANIFEST_NAME,
            found=str(error),
            expected="one JSON object",
            do=f"write it as {PAGE} says; `waypoint-parity schema manifest` prints its schema",
        )
        return None, family_named(FIRST_FAMILY)
    manifest = None
    try:
        manifest = read_manifest(folder, unfinished=True)
    except UserError as error:
        wrong = wrong_fields(values, Manifest, "manifest")
        for each in wrong:
            problems.of_field(each, MANIFEST_NAME)
        if not wrong:
            problems.raised("manifest", MANIFEST_NAME, error)
    else:
        # A misspelt name of an optional field is read as none.
        for each in wrong_fields(values, Manifest, "manifest"):
            if each.field not in Manifest.__struct_fields__:
                problems.of_field(each, MANIFEST_NAME)
    if manifest is not None and not manifest.complete:
        problems.add(
            "promise",
            MANIFEST_NAME,
            found=manifest.ended or "complete: false",
            expected="complete: true, written once the last record is on disk",
            do="dump again, or let the engine set it at its end; `diff` compares what there is, and never passes",
        )
    try:
        name = values.get("family", FIRST_FAMILY)
        # Of models that no family knows nothing is expected.
        return manifest, family_named(name if isinstance(name, str) else FIRST_FAMILY) if name else None
    except UserError as error:
        problems.raised("manifest", MANIFEST_NAME, error)
        return manifest, None


def _session(
    folder: Path,
    manifest: Manifest | None,
    checkpoint: Checkpoint | None,
    scenario: Scenario | None,
    against: Path | None,
    problems: _Problems,
) -> _RightSession:
    """What the dump is held against. What its manifest says of another model or session is a problem."""
    records = {} if against is None else {record.key: record for record in read_records(against)}
    if manifest is not None and against is not None:
        right = read_manifest(against, unfinished=True)
        for reason in (unlike_models(manifest, right), unlike_inputs(manifest, right)):
            if reason is not None:
                do = "run the same checkpoint and scenario, in the same precision, and write their digests"
                expected = f"the model and the inputs of {against}"
                problems.add("manifest", MANIFEST_NAME, found=reason, expected=expected, do=do)
        if None not in (manifest.caches, right.caches) and manifest.caches != right.caches:
            problems.of_field(_wrong_caches(f"those of {against}"), MANIFEST_NAME)
    if checkpoint is not None and scenario is not None:
        if manifest is not None:
            _check_identity(manifest, checkpoint, scenario, problems)
        optional = {record.site for record in records.values()} | set(() if manifest is None else manifest.sites or ())
        return _RightSession(
            [*expected_keys(scenario, checkpoint, optional=optional)], "checkpoint and scenario", records
        )
    if against is not None:
        return _RightSession([*records], str(against), records)
    return _RightSession([] if manifest is None else _planned(manifest), "the passes of its manifest", records)


def _wrong_caches(expected: str) -> Wrong:
    return Wrong("manifest", "caches", "other caches", expected, "copy them from the manifest of a right dump")


def _planned(manifest: Manifest) -> list[Key]:
    """The observations that a manifest's passes tell of, unit by unit."""
    keys: list[tuple[int, int, Key]] = []
    for place, of in enumerate(manifest.passes or ()):
        sites = [name.partition("@") for name in of.sites]
        if len(keys) + len(sites) * sum(stop - first for first, stop in of.units) > _MOST_PLANNED:
            return []
        for first, stop in of.units:
            for unit in range(first, min(stop, manifest.units or stop)):
                keys += [(unit, place, Key(unit, of.phase, of.step, site, branch)) for site, _, branch in sites]
    return [key for _, _, key in sorted(keys, key=lambda each: each[:2])]


def _check_identity(manifest: Manifest, checkpoint: Checkpoint, scenario: Scenario, problems: _Problems) -> None:
    """Hold what a manifest says of its checkpoint and scenario against both."""
    given = checkpoint.family.prepared(scenario, checkpoint.geometry)
    expected: dict[str, object] = {
        "family": checkpoint.family.name,
        "checkpoint_digest": checkpoint.digest,
        "scenario_digest": scenario.digest,
    }
    found: dict[str, object] = {name: getattr(manifest, name) for name in expected}
    if manifest.units is not None:
        found["units"], expected["units"] = manifest.units, scenario.units
    for name, digest in (manifest.inputs or {}).items():
        tensor = given.tensors.get(name)
        if tensor is not None:
            found[f"inputs.{name}"], expected[f"inputs.{name}"] = digest, values_digest("", [(name, tensor)])
    family = checkpoint.family
    sigmas = family.sigmas(scenario, checkpoint.geometry)
    if family.name == manifest.family and not _same_numbers(manifest.sigmas, sigmas):
        found["sigmas"], expected["sigmas"] = manifest.sigmas, sigmas
    if manifest.caches is not None and manifest.caches != family.caches.describe(checkpoint.geometry):
        problems.of_field(_wrong_caches("those of the checkpoint"), MANIFEST_NAME)
    for name, value in found.items():
        if value != expected[name]:
            do = "write what the checkpoint and scenario that were run have; `info` and `scenario show` print digests"
            problems.of_field(Wrong("manifest", name, str(value), str(expected[name]), do), MANIFEST_NAME)


def _same_numbers(found: Sequence[float], expected: Sequence[float]) -> bool:
    """Whether numbers are equal as fp32, in which schedules are."""
    return np.array_equal(np.array(found, np.float32), np.array(expected, np.float32))


# --- the records


def _lines(folder: Path, problems: _Problems) -> Iterator[tuple[int, Record | None]]:
    """(line number, its record) of a dump; None for a line that is none, whose problems are told."""
    part, number = FilePart(folder / RECORDS_NAME), 0
    try:
        for first, lines, content in blocks(part):
            for index, line in enumerate(content.split(b"\n")[:-1], start=first):
                yield index + 1, _record(part, index, line, problems)
            number = first + lines
    except UserError as error:
        problems.raised("record", RECORDS_NAME, error, number + 1 if number else None)


def _record(part: FilePart, index: int, line: bytes, problems: _Problems) -> Record | None:
    record = refused = None
    try:
        record = decode_record(part, index, line)
    except UserError as error:
        refused = error
    wrong = _wrong_fields(line) if record is None or not _FIELDS.issuperset(msgspec.json.decode(line)) else []
    for each in wrong:
        problems.of_field(each, RECORDS_NAME, index + 1)
    if refused is not None and not wrong:
        do = f"correct what wrote it: {PAGE}"
        problems.add("record", RECORDS_NAME, found=refused.found, expected=refused.expected, do=do, line=index + 1)
    return record


def _wrong_fields(line: bytes) -> list[Wrong]:
    try:
        values = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []
    # What the first schema calls a unit.
    return wrong_fields({"unit": values["frame"], **values} if "frame" in values else values, Record, "record")


class _Records:
    """Takes the records of a dump in the order of the file, and tells what is wrong with each and with all."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest | None,
        family: Family | None,
        session: _RightSession,
        problems: _Problems,
    ) -> None:
        self.count = self.statistics_alone = 0
        self.pictures: list[Record] = []
        self._folder = folder
        self._manifest = manifest
        self._family = family
        self._session = session
        self._problems = problems
        self._planned = dict.fromkeys(session.keys)
        self._order = Order(dict.fromkeys(key.at for key in session.keys))
        self._seen: dict[Key, int] = {}
        self._steps: dict[At, int] = {}
        self._at: At | None = None
        self._broken = False
        # The last step that a record is of, where the schedule does not have it.
        self._beyond = -1
        fields = {} if family is None else family.fields
        self._level_sites = {field.site for field in fields.values() if field.level}
        self._tensors = self._opened()
        # By site, phase and step, which repeat unit after unit.
        self._unlike_family: dict[tuple[str, str, int], Wrong | None] = {}

    def _opened(self) -> KeptTensors | None:
        if not (self._folder / TENSORS_NAME).is_file():
            return None
        try:
            return open_tensors(self._folder)
        except UserError as error:
            self._problems.raised("tensors", TENSORS_NAME, error)
            return None

    def take(self, line: int, record: Record | None) -> None:
        """Take a line of the file."""
        self.count = line
        if record is None:
            self._broken = True
            return
        key = record.key
        self.statistics_alone += not record.sketch
        for wrong in (
            *self._of_key(line, key),
            *contradictions(record),
            *self._of_site(record),
            *self._of_schedule(record),
            *self._of_values(record),
        ):
            self._problems.of_field(wrong, RECORDS_NAME, line, str(key))
        self._seen.setdefault(key, line)
        self._at = key.at
        self._steps.setdefault(key.at, line)
        if self._family is not None and self._family.sites.kind(key.site, key.phase) is Kind.PICTURE:
            self.pictures.append(record)

    def end(self) -> None:
        """Tell what the file as a whole does not have."""
        if self._manifest is not None:
            try:
                check_promised(self._folder / RECORDS_NAME, self.count, self._manifest)
            except UserError as error:
                self._problems.add(
                    "promise",
                    RECORDS_NAME,
                    found=error.found,
                    expected=f"{self._manifest.observed} records: `observed` of {MANIFEST_NAME}",
                    do="write as many lines as the manifest says, or let it say how many there are",
                    line=self.count or None,
                )
        self._tell_schedule()
        self._tell_missing()
        names = set() if self._tensors is None else self._tensors.names
        known = {str(key) for key in self._seen}
        # A broken line may be the record of any of them.
        for name in sorted(names - known) if not self._broken else ():
            perhaps = nearest(name, known)
            expected = "the name of a record: u{unit}/{phase}{step}/{site}" + (
                f", perhaps {perhaps}" if perhaps else ""
            )
            do = "name it as its record, or write its record"
            self._problems.add("tensors", TENSORS_NAME, found=f"a tensor {name}", expected=expected, do=do)

    def _of_key(self, line: int, key: Key) -> Iterator[Wrong]:
        """What is wrong with the place of a record in its file."""
        if (before := self._seen.get(key)) is not None:
            found = f"a second record of {key}; the first is on line {before}"
            yield Wrong("twice", "", found, "one record of each", "count repeats of a site within a step in `call`")
        elif key.call and key._replace(call=key.call - 1) not in self._seen:
            expected = f"call {key.call - 1} before it"
            yield Wrong("order", "call", f"call {key.call} of {key.site}", expected, "count calls from 0")
        if key.at == self._at:
            return
        do = "write records in the order of execution: a step as a whole, units ascending"
        where = f"unit {key.unit}, {key.phase} step {key.step}"
        if key.at in self._steps:
            found = f"{where} begins a second time; its first record is on line {self._steps[key.at]}"
            yield Wrong("order", "", found, "all records of a step beside each other", do)
        elif self._at is not None and self._is_late(key.at, self._at):
            found = f"{where}, behind unit {self._at.unit}, {self._at.phase} step {self._at.step}"
            yield Wrong("order", "", found, "steps in the order of execution", do)

    def _is_late(self, at: At, last: At) -> bool:
        if at in self._order and last in self._order:
            return self._order.rank(at) < self._order.rank(last)
        return at.unit < last.unit

    def _of_site(self, record: Record) -> Iterator[Wrong]:
        """What is wrong with what a record is of, by the family, the session and the other dump."""
        key, right = record.key, self._session.records.get(record.key)
        if right is None and self._family is not None:
            place = key.site, key.phase, key.step
            if place not in self._unlike_family:
                self._unlike_family[place] = _unlike_family(*place, self._family)
            if (wrong := self._unlike_family[place]) is not None:
                yield wrong
            elif self._planned and key._replace(call=0) not in self._planned:
                yield self._unplanned(key)
            elif self._family.sites.kind(key.site, key.phase) is Kind.PICTURE and not _is_picture(record):
                found, expected = f"{record.dtype} {record.shape}", "uint8 [n,H,W,3] or [H,W,3]"
                yield Wrong(
                    "shape", "shape, dtype", found, expected, "record the picture as it is seen, in levels of 255"
                )
        if right is None or None in (record.shape, record.dtype, right.shape, right.dtype):
            return
        unlike = [name for name in ("shape", "dtype") if getattr(record, name) != getattr(right, name)]
        # A dtype that there is none of is told already.
        if unlike and (unlike != ["dtype"] or record.dtype in DTYPES):
            found, expected = (f"{each.dtype} {each.shape}" for each in (record, right))
            do = "record the official layout, rows first: same axes, same order, same type"
            yield Wrong("shape", ", ".join(unlike), found, f"{expected}, as {self._session.by} has it", do)
        elif (wrong := unlike_projection(record, right)) is not None:
            yield wrong

    def _unplanned(self, key: Key) -> Wrong:
        """The problem of an observation that no right session has."""
        at = f"unit {key.unit}, {key.phase} step {key.step}"
        if key.at not in self._order:
            units = 1 + max(known.unit for known in self._planned)
            steps = sorted({known.step for known in self._planned if known.phase == key.phase})
            expected = f"units 0 to {units - 1}; {key.phase} steps {listed([*map(str, steps)]) or 'none'}"
        else:
            expected = f"a site of this step, by {self._session.by}"
        do = "correct unit, phase, step, site or branch; `waypoint-parity sites CHECKPOINT` lists sites and phases"
        return Wrong(
            "site", "unit, phase, step, site, branch", f"{site_name(key.site, key.branch)} in {at}", expected, do
        )

    def _of_schedule(self, record: Record) -> Iterator[Wrong]:
        """A noise level that is not that of the record's step, by the manifest."""
        if self._manifest is None or self._family is None or record.phase not in self._family.sites.sampling:
            return
        sigmas = self._manifest.sigmas
        if not sigmas:
            return
        do = f"write the schedule that was run as `sigmas` of {MANIFEST_NAME}, and of each step what it has there"
        if record.step >= len(sigmas) - 1:
            # Told once, of the manifest.
            self._beyond = max(self._beyond, record.step)
            return
        right = sigmas[record.step]
        types = self._manifest.numerics["dtype"], record.dtype or ""
        near = max(_LEVELS_NEAR.get(name, _LEVEL_NEAR) for name in types) * abs(right)
        if record.sigma is not None and abs(record.sigma - right) > near:
            yield Wrong("record", "sigma", f"{record.sigma:g}", f"{right:g}, `sigmas` of the manifest has it", do)
        if record.site in self._level_sites and record.min is not None and record.max is not None:
            off = [value for value in (record.min, record.max) if abs(value - right) > near]
            if off:
                expected = f"{right:g}, `sigmas` of the manifest has it"
                yield Wrong("manifest", "sigmas", f"{record.site} is {off[0]:g} in step {record.step}", expected, do)

    def _tell_schedule(self) -> None:
        """Tell a schedule of another length than that of the records and of the manifest's passes."""
        if self._manifest is None or self._family is None or not self._manifest.sigmas:
            return
        sampling, steps = self._family.sites.sampling, len(self._manifest.sigmas) - 1
        passes = [of.step for of in self._manifest.passes or () if of.phase in sampling]
        shown = max([self._beyond, *passes], default=-1) + 1
        if shown > steps or (passes and shown < steps):
            found = f"{len(self._manifest.sigmas)} numbers, for {steps} steps"
            expected = f"{shown + 1}, by the {'records' if self._beyond >= 0 else 'passes'}"
            do = "write the schedule that was run, its last 0 too"
            self._problems.of_field(Wrong("manifest", "sigmas", found, expected, do), MANIFEST_NAME)

    def _of_slots(self, record: Record, tensor: Tensor | None) -> Iterator[Wrong]:
        """Words for the slots of a cache that are not of what its record or its tensor tells."""
        if record.slots is None or record.shape is None or self._family is None:
            return
        known = {place: value for place, value in sampled(record).items() if value is not None}
        told = MarksTold(record.site, record.slots, record.shape, known, record.mean)
        caches = [] if self._manifest is None else self._manifest.caches or []
        if (wrong := self._family.caches.wrong_marks(told, tensor, caches)) is not None:
            do = "write a word for each slot as the page says, from the cache that the record is of; or leave it out"
            yield Wrong("record", "slots", *wrong, do)

    def _of_values(self, record: Record) -> Iterator[Wrong]:
        """What is wrong with a record whose values are known, and with what it says of slots."""
        name = str(record.key)
        if self._tensors is not None and name in self._tensors.names:
            tensor = self._tensors.unchecked(name)
            dtype = str(tensor.dtype).removeprefix("torch.")
            if (dtype, [*tensor.shape]) != (record.dtype, record.shape):
                found = f"{record.dtype} {record.shape}, its tensor is {dtype} {[*tensor.shape]}"
                do = "write both from the same tensor"
                yield Wrong("tensors", "shape, dtype", found, f"the same in the record and in {TENSORS_NAME}", do)
            else:
                yield from unlike_values(record, tensor)
                yield from self._of_slots(record, tensor)
            return
        whole = sampled_whole(record)
        yield from self._of_slots(record, whole)
        if whole is not None:
            digest = record.digest if tells_every_bit(record) else None
            yield from unlike_values(msgspec.structs.replace(record, digest=digest), whole)

    def _tell_missing(self) -> None:
        """Tell the sites that the session shows and the file has no record of."""
        if self._broken:
            return
        selection = EVERYTHING if self._manifest is None else self._manifest.selection or EVERYTHING
        missing: dict[Rung, list[int]] = {}
        for key in self._planned:
            if key.call == 0 and key not in self._seen and selection.takes(key):
                missing.setdefault(key.rung, []).append(key.unit)
        shown = {key.site for key in self._seen}
        for rung, units in missing.items():
            name = site_name(rung.site, rung.branch)
            where = f"{rung.phase} step {rung.step}, units {listed([*map(str, units)])}"
            perhaps = "" if rung.site in shown else "; no step has a record of it"
            self._problems.add(
                "missing",
                RECORDS_NAME,
                found=f"no record of {name} in {where}{perhaps}",
                expected=f"one of each, by {self._session.by}",
                do="record it, or say in the manifest's `selection` what is recorded; or use `diff --allow-missing`",
                key=name,
            )


def _unlike_family(site: str, phase: str, step: int, family: Family) -> Wrong | None:
    """What is wrong with a site in a step, by the family's table."""
    sites, do = family.sites, "correct its name; `waypoint-parity sites CHECKPOINT` lists sites and phases"
    phases = list(dict.fromkeys(phase for row in sites.rows for phase in row.phases))
    if phase not in phases:
        perhaps = nearest(phase, phases)
        expected = f"perhaps {perhaps}" if perhaps else f"one of {listed(phases)}"
        return Wrong("site", "phase", phase, expected, do)
    if sites.of(site) is None:
        perhaps = _meant(site, [row.name for row in sites.rows])
        return Wrong("site", "site", site, f"perhaps {perhaps}" if perhaps else f"a site of {family.name}", do)
    if (row := sites.of(site, phase)) is None:
        of = [phase for phase in phases if sites.of(site, phase) is not None]
        return Wrong("site", "phase", f"{site} in {phase}", f"{site} in {listed(of)}", do)
    if row.once and step:
        return Wrong("site", "step", f"{site} in step {step}", "step 0 alone", "record it where it is first given")
    return None


def _meant(site: str, known: Collection[str]) -> str | None:
    """The site that must have been meant, with the numbers that were given."""
    perhaps = nearest(kind_of(site), {kind_of(name) for name in known})
    numbers = re.findall(r"\d+", site)
    if perhaps is None or perhaps.count("*") != len(numbers):
        return perhaps
    return perhaps.replace("*", "{}").format(*numbers)


def _is_picture(record: Record) -> bool:
    shape = record.shape or []
    return record.dtype == "uint8" and len(shape) in (3, 4) and shape[-1] == 3


# --- the other files


def _check_files(
    folder: Path, manifest: Manifest | None, family: Family | None, pictures: Sequence[Record], problems: _Problems
) -> None:
    """Tell pictures that are not those of their records, and files that are not those of the seal."""
    kept = set(kept_pictures(folder))
    named = {picture_path(folder, at) for at in kept}
    for path in sorted((folder / FRAMES).iterdir()) if (folder / FRAMES).is_dir() else ():
        if path not in named:
            expected = f"{FRAMES}/000000.png: the unit with six digits; others of a unit 000000-STEP-NUMBER.png"
            found = f"{path.name}, which nobody reads"
            problems.add("pictures", f"{FRAMES}/{path.name}", found=found, expected=expected, do="rename or remove it")
    for record in pictures if family is not None else ():
        for at in _absent(record, kept):
            file = picture_path(folder, at).relative_to(folder).as_posix()
            found, do = f"no file, though {record.key} tells of it", "write the picture as PNG, 8 bits, RGB, lossless"
            problems.add(
                "pictures", file, found=found, expected="the picture of the record", do=do, key=str(record.key)
            )
        try:
            for said in unlike_pictures(folder, family, kept, [record]) if family is not None else ():
                do = "write the pixels that the record is of, losslessly: digest, or mean, std, min and max"
                problems.add(
                    "pictures", FRAMES, found=said, expected="the picture of the record", do=do, key=str(record.key)
                )
        except UserError as error:
            problems.raised("pictures", FRAMES, error)
    told = _pictures_told(pictures)
    for at in sorted(kept) if family is not None else ():
        if at.number >= told[at.unit, at.step]:
            file = picture_path(folder, at).relative_to(folder).as_posix()
            found, do = "a picture that no record tells of", "write its record, or remove it"
            problems.add("pictures", file, found=found, expected="a record for each picture", do=do)
    for said in () if manifest is None else broken_seals(folder, manifest):
        do = "leave `files` and `seal` out of the manifest where your engine cannot write both; else dump again"
        problems.add("seal", "", found=said, expected="files with the digests that their manifest has", do=do)


def _pictures_told(records: Iterable[Record]) -> Counter[tuple[int, int]]:
    """How many pictures records tell of, by unit and step; those of several calls are numbered through."""
    told: Counter[tuple[int, int]] = Counter()
    for record in records:
        told[record.unit, record.step] += math.prod((record.shape or [0])[:-3])
    return told


def _absent(record: Record, kept: Iterable[PictureAt]) -> list[PictureAt]:
    """The pictures of a record that are not kept; of very many the first."""
    each = math.prod((record.shape or [0])[:-3])
    first = record.call * each
    numbers = range(first, first + min(each, MOST_TOLD))
    return sorted({PictureAt(record.unit, record.step, number) for number in numbers}.difference(kept))
