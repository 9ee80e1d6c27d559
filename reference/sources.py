"""Which sources an official package has: a digest, to tell the tested revision from another one."""

import hashlib
from collections.abc import Collection
from pathlib import Path


def sources_digest(folder: Path, files: Collection[str] = ()) -> str:
    """SHA-256 over names and contents of `files` below `folder`, line endings aside; of all Python files by default.

    A file that is absent counts as empty.
    """
    digest = hashlib.sha256()
    for path in [folder / name for name in files] or sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update((path.read_bytes() if path.is_file() else b"").replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()
