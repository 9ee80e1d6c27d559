"""Documents: JSON files of this project, each of a schema that it names itself."""

from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from harness.errors import UserError


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
