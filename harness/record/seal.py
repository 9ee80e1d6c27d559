"""The seal of a dump: digests of its files, and of its manifest, by which a change is seen that came later.

They are no proof against malice.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import xxhash

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    Manifest,
    encode,
    kept_pictures,
    left_out,
    picture_path,
)


def file_digest(path: Path) -> str:
    """xxh3-64 of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def manifest_digest(manifest: Manifest) -> str:
    """xxh3-64 of what a manifest says, its seal apart.

    A field that it leaves out is none of that: so one that is added to the format breaks no older seal.
    """
    fields = [field for field in msgspec.structs.fields(manifest) if field.name != "seal"]
    values = [(field, getattr(manifest, field.name)) for field in fields]
    told = {field.name: value for field, value in values if value != left_out(field)}
    return xxhash.xxh3_64_hexdigest(encode(told))


def sealed(manifest: Manifest, files: Mapping[str, str]) -> Manifest:
    """A manifest that vouches for these files, by their digests, and for itself."""
    vouching = msgspec.structs.replace(manifest, files=dict(files))
    return msgspec.structs.replace(vouching, seal=manifest_digest(vouching))


def is_sealed(manifest: Manifest) -> bool:
    """Whether a manifest has digests at all: other engines may write none."""
    return manifest.files is not None or manifest.seal is not None


def broken_seals(folder: Path, manifest: Manifest) -> list[str]:
    """What was changed in a sealed dump after it was written, in words."""
    if not is_sealed(manifest):
        return []
    broken = []
    if manifest.seal != manifest_digest(manifest):
        broken.append(f"{folder / MANIFEST_NAME} is not as it was written: its digest differs")
    files = manifest.files or {}
    for name, digest in files.items():
        path = folder / name
        try:
            # A name that leads out of the folder is none that a dump has.
            is_there = path.resolve().is_relative_to(folder.resolve()) and path.is_file()
            is_same = is_there and file_digest(path) == digest
        except (OSError, RuntimeError):  # such as a link to itself
            is_there = False
        if not is_there:
            broken.append(f"{path} is gone, or lies elsewhere")
        elif not is_same:
            broken.append(f"{path} is not as it was written: its digest differs")
    kept = (picture_path(folder, at) for at in kept_pictures(folder))
    added = (path for path in kept if path.relative_to(folder).as_posix() not in files)
    return [*broken, *(f"{path} was added later" for path in added)]


def check_seals(folder: Path, manifest: Manifest) -> None:
    """Raise UserError for a sealed dump that was changed after it was written."""
    if broken := broken_seals(folder, manifest):
        raise UserError(
            f"{folder}: the dump is not as it was written",
            found=broken[0],
            expected="files with the digests that their manifest has",
            do="dump again",
        )
