"""The document of a baseline: what it holds, what it was made of, and that it is whole."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import read_document
from waypoint_parity.harness.record.records import MANIFEST_NAME, RECORDS_NAME, kept_pictures, picture_path

BASELINE_SCHEMA = "waypoint-parity/baseline/1"
BASELINE_NAME = "baseline.json"
# Names are names of folders, here and on the hub. Without the first character's rule `..` would be one.
_NAME = re.compile(r"\w[\w.+-]*")


class BaselineDump(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted dump: who made it, and under what (harness.sweep.baseline.provenance), for whoever reads the file.

    `verdict`: what its run said of it, None of a dump that was accepted alone.
    """

    implementation: str
    provenance: dict[str, str]
    verdict: str | None = None


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """A baseline: its dumps by name, each in a folder of that name, and the SHA-256 of every file of theirs.

    `accepted`: when, in UTC, ISO 8601. `files`: by path below the baseline's folder. `failed`: cells of the run that
    failed to run, and are not in it.
    """

    schema: str
    name: str
    accepted: str
    entries: dict[str, BaselineDump]
    files: dict[str, str]
    failed: list[str] = []


@dataclass(frozen=True)
class OpenedBaseline:
    """A baseline whose files are all there and are what they were."""

    folder: Path
    document: Baseline


def named(name: str) -> str:
    """`name`, which can be the name of a baseline or of one of its dumps. Raises UserError where it cannot."""
    if not _NAME.fullmatch(name):
        raise UserError(
            "no name of a baseline",
            found=repr(name),
            expected="letters, digits, and . + - _ behind the first of them",
            do="choose another name",
        )
    return name


def read_baseline(folder: Path) -> Baseline:
    """The document of the baseline in `folder`, its files unread. Raises UserError for a broken one."""
    path = folder / BASELINE_NAME
    baseline = read_document(path, Baseline, BASELINE_SCHEMA, called="a baseline", do="accept or pull it again")
    if wrong := [name for name in baseline.entries if not _NAME.fullmatch(name)]:
        raise _damaged(folder, f"a dump called {wrong[0]!r}", "names of folders")
    return baseline


def open_baseline(folder: Path) -> OpenedBaseline:
    """The baseline in `folder`, every file of it verified.

    Raises UserError where there is none, and for a damaged one, which is never a regression of anything.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such baseline",
            found="no such folder",
            expected="the folder of an accepted baseline",
            do="look at `waypoint-parity baseline list`, correct the name or --store, or accept or pull it",
        )
    baseline = read_baseline(folder)
    found = digests(folder, _below(folder))
    expected = baseline.files
    if lacking := sorted(expected.keys() - found.keys()):
        raise _damaged(folder, f"no {listed(lacking)}", "every file that its document lists")
    if foreign := sorted(found.keys() - expected.keys()):
        raise _damaged(folder, f"{listed(foreign)} besides", "the files that its document lists, and no other")
    if changed := sorted(path for path in expected if found[path] != expected[path]):
        digest = f"SHA-256 {found[changed[0]][:12]}"
        raise _damaged(folder, f"{listed(changed)} changed, {digest}", f"SHA-256 {expected[changed[0]][:12]}")
    return OpenedBaseline(folder, baseline)


def kept_files(dump: Path) -> list[Path]:
    """What a baseline keeps of a dump: all but its full tensors."""
    return [dump / MANIFEST_NAME, dump / RECORDS_NAME, *(picture_path(dump, at) for at in kept_pictures(dump))]


def digests(folder: Path, paths: Iterable[Path]) -> Mapping[str, str]:
    """The SHA-256 of files below `folder`, by their path there."""
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def _below(folder: Path) -> Iterator[Path]:
    """Every file of a baseline but its document."""
    return (path for path in folder.rglob("*") if path.is_file() and path != folder / BASELINE_NAME)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(folder: Path, found: str, expected: str) -> UserError:
    return UserError(
        f"{folder}: the baseline is damaged", found=found, expected=expected, do="accept or pull it again, with --force"
    )
