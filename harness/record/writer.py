"""Writing a dump: records, pictures, perhaps full tensors, and the manifest that vouches for them."""

import base64
import fnmatch
import math
import os
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO, RawIOBase
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from PIL import Image
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import partial_name, replacing, writing
from waypoint_parity.harness.record.records import (
    DUMP_SCHEMA,
    FRAMES,
    MANIFEST_NAME,
    RECORDS_NAME,
    TENSORS_NAME,
    Exact,
    Followed,
    Manifest,
    PassSites,
    PictureAt,
    Record,
    encode,
    is_dump,
    kept_pictures,
    picture_path,
    to_json,
)
from waypoint_parity.harness.record.seal import file_digest, sealed
from waypoint_parity.harness.record.selection import EVERYTHING, Selection
from waypoint_parity.harness.record.statistics import Measurements, Statistics, project
from waypoint_parity.harness.record.tensor_file import TensorFile
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.digest import fast_digest, values_digest
from waypoint_parity.harness.run.engine import checked_description
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import At, Key, is_input, site_name
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import expected_keys
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation, one_by_one
from waypoint_parity.harness.run.worker import environment


class _Header(NamedTuple):
    """What is known of an observation before its statistics have left the device."""

    key: Key
    sigma: float | None
    shape: list[int]
    dtype: str
    digest: str | None
    slots: list[str] | None
    exact: Exact | None


class DumpWriter:
    """The sink that writes a dump. Its manifest says complete only after its context was left without an error.

    After an error it says why the run ended, and what was recorded before stays.

    Statistics stay on the observed tensor's device until the pass ends; then those of the whole pass are fetched in one
    transfer.
    """

    def __init__(self, folder: Path, manifest: Manifest, keep: Sequence[str] = ()) -> None:
        """`keep`: globs of the sites whose full tensors are kept too. Raises UserError for an unusable folder."""
        self._folder = folder
        self._manifest = manifest
        self._family = family_named(manifest.family)
        self._keep = keep
        self._tensors: TensorFile | None = None
        self._pending: list[_Header] = []
        self._exact_values = 0
        self._digest = xxhash.xxh3_64()
        self._files: dict[str, str] = {}
        self._measurements = Measurements()
        with writing(folder):
            _clear(folder)
            (folder / FRAMES).mkdir(parents=True, exist_ok=True)
            self._write_manifest(manifest)
            # Unbuffered: a process that is killed leaves whole lines.
            self._records = (folder / RECORDS_NAME).open("wb", buffering=0)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with writing(self._folder), self._records:
            if error is None:
                self.end_pass()
                self._finish(None)
                return
            # What the failing pass showed is told too, if its device still answers; and why, if there is room.
            with suppress(Exception):
                self.end_pass()
            with suppress(Exception):
                self._finish(" ".join(str(error).split()) or type(error).__name__)

    def followed(self, lanes: int, unfollowed: Sequence[str]) -> None:
        """Say in the manifest how the run was followed; before the context is left."""
        nothing = [] if self._exact_values else ["no operation of torch made what it shows"]
        self._manifest.followed = Followed(lanes, self._exact_values, [*unfollowed] or nothing)

    def observe(self, seen: Observation) -> None:
        """Take one observation."""
        tensor = seen.tensor.detach()
        # Inputs are small, and no two runs can be compared that do not know theirs.
        digest = fast_digest(tensor.cpu()) if tensor.device.type == "cpu" or is_input(seen.key.site) else None
        dtype = str(tensor.dtype).removeprefix("torch.")
        slots = self._family.caches.marks(seen.key.site, tensor, self._manifest.caches or [])
        exact = _exact(seen)
        self._exact_values += exact is not None
        header = _Header(seen.key, seen.sigma, list(tensor.shape), dtype, digest, slots, exact)
        self._pending.append(header)
        self._measurements.add(tensor)
        if any(fnmatch.fnmatchcase(seen.key.site, pattern) for pattern in self._keep):
            self._keep_tensor(str(seen.key), tensor.cpu())
        if self._family.sites.kind(seen.key.site, seen.key.phase) is Kind.PICTURE:
            _check_picture(seen.key, tensor)
            with writing(self._folder):
                self._files |= write_pictures(self._folder, seen.key, tensor)

    def take(self, record: Record) -> None:
        """Write a record of another tool, of statistics alone."""
        self.end_pass()
        self._write([record])

    def end_pass(self) -> None:
        """Bring the pending statistics to the host and write their records."""
        if not self._pending:
            return
        summaries = self._measurements.fetch()
        records = [_record(*seen) for seen in zip(self._pending, summaries, strict=True)]
        self._pending.clear()
        self._write(records)

    def _write(self, records: Sequence[Record]) -> None:
        written = b"".join(encode(record) + b"\n" for record in records)
        with writing(self._folder):
            _write_whole(self._records, written)
        self._digest.update(written)
        self._manifest.observed += len(records)

    def _keep_tensor(self, name: str, tensor: Tensor) -> None:
        with writing(self._folder):
            if self._tensors is None:
                self._tensors = TensorFile(self._folder / TENSORS_NAME)
            self._tensors.add(name, tensor)

    def _finish(self, ended: str | None) -> None:
        manifest = self._manifest
        if self._tensors is not None:
            self._tensors.finish()
            self._files[TENSORS_NAME] = file_digest(self._folder / TENSORS_NAME)
        os.fsync(self._records.fileno())
        manifest.seconds = time.perf_counter() - self._started
        manifest.complete, manifest.ended = ended is None, ended
        self._write_manifest(sealed(manifest, {RECORDS_NAME: self._digest.hexdigest(), **self._files}))

    def _write_manifest(self, manifest: Manifest) -> None:
        with replacing(self._folder / MANIFEST_NAME) as partial:
            partial.write_bytes(to_json(manifest))


def describe_run(
    name: str,
    adapter: Adapter,
    numerics: Numerics,
    checkpoint: Checkpoint,
    scenario: Scenario,
    variant: str | None = None,
    *,
    selection: Selection = EVERYTHING,
    observer: str | None = None,
) -> Manifest:
    """The manifest of a run that is about to start and record `selection`; `observer`: see harness.record.observer."""
    family, geometry = checkpoint.family, checkpoint.geometry
    sites = adapter.sites().keys()
    keys = list(expected_keys(scenario, checkpoint, optional=sites))
    given = family.prepared(scenario, geometry)
    digests = {name: values_digest("", [(name, tensor)]) for name, tensor in given.tensors.items()}
    described, ran_in = checked_description(adapter), environment()
    # An implementation that runs elsewhere describes its own environment, by these names.
    ran_in |= {name: described[name] for name in ran_in.keys() & described.keys() if _is_environment(name, described)}
    return Manifest(
        schema=DUMP_SCHEMA,
        family=family.name,
        implementation=name,
        numerics=numerics.to_json(),
        description={name: value for name, value in described.items() if ran_in.get(name) != value},
        checkpoint_digest=checkpoint.digest,
        checkpoint_origin=checkpoint.origin,
        scenario_digest=scenario.digest,
        scenario_name=scenario.name,
        variant=variant,
        sigmas=family.sigmas(scenario, geometry),
        torch=ran_in["torch"],
        threads=int(ran_in["threads"]),
        platform=ran_in["platform"],
        source_revision=source_revision(),
        expected=sum(map(selection.takes, keys)),
        observed=0,
        seconds=0.0,
        complete=False,
        units=scenario.units,
        passes=_passes(keys),
        caches=family.caches.describe(geometry) or None,
        inputs=digests | {name: repr(number) for name, number in given.numbers.items()},
        selection=None if replace(selection, stepped=()) == EVERYTHING else selection,
        processor=ran_in["processor"],
        observer=observer,
        sites=sorted(sites),
    )


def _is_environment(name: str, described: Mapping[str, str]) -> bool:
    """Whether a description says by this name what a manifest does: threads are a number there."""
    return name != "threads" or described[name].isdecimal()


def _passes(keys: Sequence[Key]) -> list[PassSites]:
    """The sites of every kind of step, and the units that have it."""
    sites: dict[At, list[str]] = {}
    for key in keys:
        sites.setdefault(key.at, []).append(site_name(key.site, key.branch))
    units: dict[tuple[str, int, tuple[str, ...]], list[tuple[int, int]]] = {}
    for at, names in sites.items():
        ranges = units.setdefault((at.phase, at.step, tuple(names)), [])
        if ranges and ranges[-1][1] == at.unit:
            ranges[-1] = (ranges[-1][0], at.unit + 1)
        else:
            ranges.append((at.unit, at.unit + 1))
    return [PassSites(phase, step, ranges, list(names)) for (phase, step, names), ranges in units.items()]


def write_pictures(folder: Path, key: Key, pixels: Tensor) -> dict[str, str]:
    """Write the pictures [n,H,W,3] or [H,W,3] uint8 that a site showed, losslessly. Returns their files' digests.

    Pictures of several calls follow each other; a site shows as many in each.
    """
    digests = {}
    for at, picture in pictures_shown(key, pixels).items():
        path, png = picture_path(folder, at), BytesIO()
        # Level 1: pictures of random weights are noise, on which a higher level costs 3x the time for 1 % of the size.
        Image.fromarray(picture).save(png, "PNG", compress_level=1)
        path.write_bytes(png.getbuffer())
        digests[path.relative_to(folder).as_posix()] = xxhash.xxh3_64_hexdigest(png.getbuffer())
    return digests


def _check_picture(key: Key, pixels: Tensor) -> None:
    if pixels.dtype is not torch.uint8 or pixels.dim() not in (3, 4) or pixels.shape[-1] != 3:
        raise UserError(
            f"{key}: is no picture",
            found=f"{pixels.dtype} {list(pixels.shape)}",
            expected="torch.uint8 [H,W,3] or [n,H,W,3]",
            do="show the decoded picture as it is seen, in the adapter or in what wrote the dump",
        )


def pictures_shown(key: Key, pixels: Tensor) -> dict[PictureAt, npt.NDArray[np.uint8]]:
    """The pictures [n,H,W,3] or [H,W,3] uint8 that a site showed, one by one."""
    each = one_by_one(pixels)
    return {
        PictureAt(key.unit, key.step, number): picture.copy()
        for number, picture in enumerate(each, start=key.call * len(each))
    }


def _record(header: _Header, summary: Statistics) -> Record:
    return Record(
        unit=header.key.unit,
        phase=header.key.phase,
        step=header.key.step,
        site=header.key.site,
        branch=header.key.branch,
        call=header.key.call,
        sigma=header.sigma,
        shape=header.shape,
        dtype=header.dtype,
        mean=_rounded(summary.mean),
        std=_rounded(summary.std),
        min=_rounded(summary.min),
        max=_rounded(summary.max),
        absmean=_rounded(summary.absmean),
        rms=_rounded(summary.rms),
        nan=summary.nan,
        posinf=summary.posinf,
        neginf=summary.neginf,
        sample=[_rounded(value) for value in summary.sample],
        sketch=base64.b64encode(summary.sketch).decode(),
        digest=header.digest,
        slots=header.slots,
        exact=header.exact,
    )


def _exact(seen: Observation) -> Exact | None:
    """What a record says of the exact value; nothing where it is not known, and where anything is not finite."""
    if seen.exact is None or seen.spread is None or seen.lost is not None or is_input(seen.key.site):
        return None
    norm, off = (float(x.norm()) for x in (seen.exact, seen.tensor.double() - seen.exact))
    if not norm or not math.isfinite(norm + off + seen.spread):
        return None
    return Exact(norm, off / norm, seen.spread, project(seen.exact))


def _rounded(value: float | None) -> float | None:
    """To nine significant digits, which tell any two fp32 numbers apart; shorter lines are read faster."""
    return None if value is None else float(f"{value:.9g}")


@contextmanager
def replacing_dump(folder: Path) -> Iterator[Path]:
    """A folder to write a dump into in place of the one in `folder`, which it replaces once it is complete.

    Where there is no earlier dump it is `folder` itself. After an error the earlier dump is as it was.
    Raises UserError for a folder that holds other things and no dump.
    """
    with writing(folder):
        if not _holds_dump(folder):
            place = folder
        else:
            # Within the folder, where it can be renamed from. A process that was killed may have left one.
            place = folder / partial_name("dump")
            _remove(place)
    try:
        yield place
        if place != folder:
            with writing(folder):
                _take_place(place, folder)
    finally:
        if place != folder:
            with suppress(OSError):
                _remove(place)


def _remove(place: Path) -> None:
    """Remove a folder, or whatever lies under its name."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _take_place(new: Path, folder: Path) -> None:
    """Put the dump in `new` in the place of the one in `folder`.

    The manifest comes last: until then its seal tells that files are not those of the earlier dump.
    """
    _clear(folder, but=(MANIFEST_NAME,))
    (folder / FRAMES).mkdir(exist_ok=True)
    for picture in kept_pictures(new):
        picture_path(new, picture).replace(picture_path(folder, picture))
    for name in (RECORDS_NAME, TENSORS_NAME, MANIFEST_NAME):
        if (new / name).exists():
            (new / name).replace(folder / name)


def _holds_dump(folder: Path) -> bool:
    """Whether `folder` holds a dump, and not nothing. Raises UserError where it holds other things."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    if not is_dump(folder):
        raise UserError(
            f"{folder}: is not empty",
            found="files that are not a dump",
            expected="a new or empty folder, or an earlier dump to replace",
            do="name another folder with --out",
        )
    return True


def _clear(folder: Path, but: Collection[str] = ()) -> None:
    """Remove from `folder` what an earlier dump wrote, `but` some of its files, and nothing else.

    Links go, what they point to stays. Raises UserError for a folder that holds other things and no dump.
    """
    if not _holds_dump(folder):
        return
    frames = folder / FRAMES
    if frames.is_symlink():
        frames.unlink()
    for picture in kept_pictures(folder):
        picture_path(folder, picture).unlink()
    names = [RECORDS_NAME, TENSORS_NAME, MANIFEST_NAME]
    # The manifest last: until then it is seen that this is a dump.
    for name in (*names[:-1], *map(partial_name, names), MANIFEST_NAME):
        if name not in but:
            (folder / name).unlink(missing_ok=True)


def _write_whole(file: RawIOBase, content: bytes) -> None:
    """Write all of `content` to an unbuffered file, or nothing of it where that fails."""
    before, rest = file.tell(), memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) or 0 :]
    except OSError:
        file.truncate(before)
        raise


def source_revision() -> str | None:
    """The git commit that this package's source stands at, where it stands in a git checkout."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
