"""Files: written whole or not at all; JSON documents, each of a schema that it names itself; files of tensors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from safetensors import SafetensorError, safe_open

from waypoint_parity.harness.errors import UserError


class Document(Protocol):
    """What every document says of itself."""

    @property
    def schema(self) -> str:
        """The schema that it was written in."""
        ...


AnyDocument = TypeVar("AnyDocument", bound=Document)


def read_document(path: Path, kind: type[AnyDocument], schema: str, *, called: str, do: str) -> AnyDocument:
    """The document in a file. Raises UserError for a broken file and for another schema.

    `called`: what it is, with its article; `do`: what helps where it cannot be read.
    """
    try:
        document = msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read as {called}", found=str(error), expected=f"{called} of schema {schema}", do=do
        ) from error
    if document.schema != schema:
        raise UserError(
            f"{path}: unknown schema of {called}",
            found=document.schema,
            expected=schema,
            do=f"{do}, or use a release of waypoint-parity that knows the schema",
        )
    return document


# What people have in the place of a file, by the way that it begins, and what helps.
_MISTAKEN = (
    (b"version https://git-lfs", "a git-lfs pointer, which stands for the file", "fetch the file itself: git lfs pull"),
    (b"<!doctype", "a web page", "fetch the file itself, not the page that shows it"),
    (b"<html", "a web page", "fetch the file itself, not the page that shows it"),
    (b'{"error', "the error message of a server", "fetch the file again"),
    (b"pk\x03\x04", "a PyTorch or zip file", "convert it to safetensors, which holds no code"),
    (b"\x80\x02", "a Python pickle", "convert it to safetensors, which holds no code"),
    (b"gguf", "a GGUF file", "convert it to safetensors"),
)
_UNREADABLE = {
    errno.EACCES: "let this user read it",
    errno.EISDIR: "name the file itself",
    errno.ELOOP: "mend the link",
    errno.ENOENT: "correct the path, or fetch what is to be there",
}


def mistaken_for(path: Path) -> tuple[str, str] | None:
    """What lies at `path` in place of a file of tensors or text, and what to do; None where that cannot be told."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        return error.strerror or str(error), _UNREADABLE.get(error.errno or 0, "correct the path")
    if not start:
        return "an empty file", "fetch or copy it again"
    return next(((found, do) for sign, found, do in _MISTAKEN if start.startswith(sign)), None)


def open_tensors(path: Path, *, called: str) -> Any:
    """The open safetensors file. Raises UserError, with what lies there instead; `called` is what it should be."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        found, do = mistaken_for(path) or (str(error), "fetch or copy the file again; it is cut short or damaged")
        raise UserError(
            f"{path}: cannot be read as {called}", found=found, expected="a whole safetensors file", do=do
        ) from error


def load_pickle(path: Path) -> Any:
    """What a file of torch holds, tensors mapped and not read. Runs no code. Raises UserError for a broken one."""
    import torch

    with reading(path):
        path.open("rb").close()
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError):
            # Files of the older form cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    # Broken pickles raise whatever their bytes lead to.
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read as a file of torch",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            expected="a whole file, with tensors and plain values alone",
            do="copy it again, or save plain tensors: code in such a file is never run",
        ) from error


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn the refusal of the operating system to show what lies at `path` into a UserError."""
    try:
        yield
    except OSError as error:
        at = "" if error.filename is None else f": {error.filename}"
        raise UserError(
            f"{path}: cannot be read",
            found=f"{error.strerror or error}{at}",
            expected="a folder and files that this user can read",
            do=_UNREADABLE.get(error.errno or 0, "correct the path"),
        ) from error


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


def partial_name(name: str) -> str:
    """What a file is called while it is written, before it takes its name."""
    return f"{name}.partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to in place of `path`, which it becomes once it is whole: a reader never sees half a file.

    A pipe or a device, such as /dev/stdout, is written to itself. A pipe that nobody reads any more is no error.
    """
    if _is_special(path):
        with writing(path), suppress(BrokenPipeError):
            yield path
        return
    partial = path.with_name(partial_name(path.name))
    try:
        with writing(path):
            # Whatever lies under that name is not written through, should it be a link.
            partial.unlink(missing_ok=True)
            yield partial
            partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _is_special(path: Path) -> bool:
    """Whether it stands for something that no file can take the place of."""
    if path.parts[:2] in (("/", "dev"), ("/", "proc")):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()
