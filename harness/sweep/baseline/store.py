"""The store of baselines: a folder with one folder for each, which is there whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import writing
from waypoint_parity.harness.judge.diff import Dump
from waypoint_parity.harness.record.blocks import FilePart, blocks
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    TENSORS_NAME,
    check_promised,
    read_manifest,
    to_json,
)
from waypoint_parity.harness.record.seal import check_seals, sealed
from waypoint_parity.harness.sweep.baseline.document import (
    BASELINE_NAME,
    BASELINE_SCHEMA,
    Baseline,
    BaselineDump,
    digests,
    kept_files,
    named,
    open_baseline,
)
from waypoint_parity.harness.sweep.baseline.provenance import provenance
from waypoint_parity.harness.sweep.baseline.runs import SideName, open_run


def accept(run: Path, name: str, store: Path, *, side: SideName = "candidate", force: bool = False) -> Baseline:
    """Store the dumps of `run` as the baseline `name`: records, sketches, frames and manifests, no full tensors.

    Raises UserError for a name that is taken, without `force`, and for a run whose dumps are not whole.
    """
    dumps, failed = open_run(run, side)
    for of in dumps.values():
        _check_whole(of.dump)
    with adding(store, name, force=force) as folder:
        for entry, of in dumps.items():
            for path in kept_files(of.dump.folder):
                kept = folder / named(entry) / path.relative_to(of.dump.folder)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, kept)
            manifest = of.dump.manifest
            if manifest.files is not None:
                # Full tensors are not kept.
                files = {name: digest for name, digest in manifest.files.items() if name != TENSORS_NAME}
                (folder / named(entry) / MANIFEST_NAME).write_bytes(to_json(sealed(manifest, files)))
        baseline = Baseline(
            schema=BASELINE_SCHEMA,
            name=name,
            accepted=datetime.now(UTC).isoformat(timespec="seconds"),
            entries={
                entry: BaselineDump(
                    implementation=of.dump.manifest.implementation,
                    provenance=provenance(of.dump.manifest),
                    verdict=of.verdict,
                )
                for entry, of in dumps.items()
            },
            failed=failed,
            files=dict(sorted(digests(folder, [path for path in folder.rglob("*") if path.is_file()]).items())),
        )
        (folder / BASELINE_NAME).write_bytes(to_json(baseline))
    return baseline


def _check_whole(dump: Dump) -> None:
    """Raise UserError for a dump of an unfinished run, for records that were cut, and for files that were changed."""
    read_manifest(dump.folder)
    lines = sum(block.lines for block in blocks(FilePart(dump.records)))
    check_promised(dump.records, lines, dump.manifest)
    check_seals(dump.folder, dump.manifest)


def add_copy(folder: Path, name: str, store: Path, *, force: bool = False) -> Baseline:
    """Store a copy of the baseline in `folder` under its own `name`, once every file of it has been verified.

    Raises UserError as `accept` does, and for a damaged baseline.
    """
    with adding(store, name, force=force) as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        return open_baseline(copy).document


@contextmanager
def adding(store: Path, name: str, *, force: bool) -> Iterator[Path]:
    """An empty folder that becomes the baseline `name` once the context is left without an error.

    Raises UserError for a name that is taken, without `force`.
    """
    place = store / named(name)
    _refuse_taken(place, force=force)
    with writing(place):
        store.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", dir=store, ignore_cleanup_errors=True) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            yield new
            # Again: somebody else may have taken the name in the meantime.
            _refuse_taken(place, force=force)
            if place.exists():
                place.rename(old)
            try:
                new.rename(place)
            except OSError:
                if old.exists():
                    old.rename(place)
                raise


def stored(store: Path) -> list[Path]:
    """The folders of the baselines in a store, by name; none where there is no store."""
    return sorted(path.parent for path in store.glob(f"[!.]*/{BASELINE_NAME}"))


def _refuse_taken(place: Path, *, force: bool) -> None:
    if place.exists() and not force:
        raise UserError(
            f"{place}: exists already",
            found="a baseline of this name",
            expected="a new name",
            do="choose another name, or replace it with --force",
        )
