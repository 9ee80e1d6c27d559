"""Two dumps as a finished run of one cell: reports, baselines and documents then take them like any other."""

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.investigation.investigate import investigate_dumps
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME
from waypoint_parity.harness.files import replacing, writing
from waypoint_parity.harness.judge.comparison import COMPARISON_NAME, Comparison
from waypoint_parity.harness.judge.diff import Dump
from waypoint_parity.harness.record.records import MANIFEST_NAME, Manifest, read_records, to_json
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import At, Order
from waypoint_parity.harness.sweep.store import CELLS
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, SUMMARY_SCHEMA, CellRun, Summary

# What the cell is called.
CELL = "diff"


def write_run(reference: Dump, candidate: Dump, comparison: Comparison, out: Path) -> Summary:
    """Write the folder of a run whose only cell is the comparison of two dumps, which are linked from there.

    Raises UserError for a folder that holds other things, and for a dump that is broken.
    """
    folder = out / CELLS / CELL
    # They may be named by the links of an earlier report, which is replaced.
    dumps = {"reference": reference.folder.resolve(), "candidate": candidate.folder.resolve()}
    _check(out, dumps.values())
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for side, dump in dumps.items():
            (folder / side).symlink_to(os.path.relpath(dump, folder.resolve()), True)
        (folder / COMPARISON_NAME).write_bytes(to_json(comparison))
    run = reference.manifest
    # What is broken or was never finished is not looked into.
    if all(dump.manifest.complete for dump in (reference, candidate)):
        found = investigate_dumps(folder, family_named(run.family), Order(_steps(reference)), comparison)
        (folder / INVESTIGATION_NAME).write_bytes(to_json(found))
    manifests = b"".join((dump.folder / MANIFEST_NAME).read_bytes() for dump in (reference, candidate))
    summary = Summary(
        schema=SUMMARY_SCHEMA,
        reference=run.implementation,
        candidates=[candidate.manifest.implementation],
        numerics={"device": "not recorded", **run.numerics},
        family=run.family,
        checkpoint=run.checkpoint_origin or "not recorded",
        checkpoint_digest=run.checkpoint_digest,
        seconds=0.0,
        cells={
            CELL: CellRun(
                folder=folder.relative_to(out).as_posix(),
                digest=hashlib.sha256(manifests).hexdigest(),
                factors={},
                seconds=0.0,
            )
        },
        variants={CELL: comparison},
    )
    with replacing(out / SUMMARY_NAME) as partial:
        partial.write_bytes(to_json(summary))
    return summary


def _check(out: Path, dumps: Collection[Path]) -> None:
    """Raise UserError for a folder in which there is something else than such a run, or one of the dumps themselves."""
    if inside := [dump for dump in dumps if dump.is_relative_to(out.resolve())]:
        raise UserError(
            f"{out}: the report would replace a dump",
            found=f"{inside[0]} within it",
            expected="another folder",
            do="name one with --out",
        )
    others = [path.name for path in (out / CELLS).glob("*") if path.name != CELL]
    if others or (out.is_dir() and any(out.iterdir()) and not (out / CELLS / CELL).is_dir()):
        raise UserError(
            f"{out}: is not empty",
            found=f"the cells of a sweep, {others[0]} among them" if others else "files that are no report of a diff",
            expected="a new or empty folder, or an earlier report of two dumps to replace",
            do="name another folder with --out",
        )


def _steps(dump: Dump) -> Iterator[At]:
    """The steps of a session in the order of its execution; of its lines, where the manifest tells no passes."""
    run: Manifest = dump.manifest
    if run.passes is None:
        yield from dict.fromkeys(record.key.at for record in read_records(dump.folder))
        return
    for unit in range(max((stop for kind in run.passes for _, stop in kind.units), default=0)):
        for kind in run.passes:
            if any(first <= unit < stop for first, stop in kind.units):
                yield At(unit, kind.phase, kind.step)
