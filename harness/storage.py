"""Writing files: whole or not at all, and a message where the operating system refuses."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from harness.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the refusal of the operating system to write `path`, or into it, into a UserError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = str(error) if isinstance(error, SafetensorError) else error.strerror or str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in reason
        raise UserError(
            f"{path}: cannot be written",
            found=reason,
            expected="a writable place with enough room",
            do="free space, or name another place to write to" if full else "name another place to write to",
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, which it becomes once it is whole: a reader never sees half a file."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with writing(path):
            yield partial
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
