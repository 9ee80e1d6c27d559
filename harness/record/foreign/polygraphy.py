"""Polygraphy's RunResults: JSON with whole arrays, by the names of an ONNX graph's values."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import reading
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes, one_process
from waypoint_parity.harness.record.foreign.tensors import comparable

NAME = "Polygraphy"
_CLASS = b'"polygraphy_class"'


def recognises(source: Path, head: bytes) -> bool:
    """Whether a file is one: of results, or of inputs. The word is behind the first array, however long that is."""
    if not source.is_file() or head.lstrip()[:1] not in (b"{", b"["):
        return False
    return _CLASS in head or b'"array"' in head or (b'"lst"' in head and b'"outputs"' in head)


def read(source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """The values of every iteration, which is a frame unless told. Raises UserError for a file that is broken."""
    notes.say("An iteration of Polygraphy is taken for a frame unless told; it has no other number.")
    try:
        with reading(source), source.open("rb") as file:
            held = json.load(file)
        iterations = _iterations(held, asked, source)
        if not isinstance(held, list):
            notes.say("Names are those of ONNX values: they pair only within one export. Constants are among them.")
        for frame, values in enumerate(iterations):
            for name, value in values.items():
                if (tensor := comparable(_tensor(value), notes)) is not None:
                    yield Found(name=f"input.{name}" if isinstance(held, list) else name, value=tensor, frame=frame)
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{source}, line {getattr(error, 'lineno', 1)}: cannot be read as results of Polygraphy",
            found=str(error),
            expected="JSON that polygraphy wrote with --save-outputs or --save-inputs",
            do="run polygraphy again",
        ) from error


def _iterations(held: Any, asked: Asked, source: Path) -> list[dict[str, Any]]:
    """The values of each iteration of one runner, or of each set of inputs."""
    if isinstance(held, list):
        return held
    # A runner's name has the time of its run in it, so a number stands for it.
    runners = {f"rank{index}": results for index, (_, results) in enumerate(held["lst"])}
    results = runners[one_process(set(runners), asked, source)]
    return [result["outputs"] for result in results]


def _tensor(value: Any) -> Any:
    """The array of a value, however it is wrapped; the value itself where there is none."""
    while isinstance(value, dict) and "values" in value:
        value = value["values"]
    if not isinstance(value, dict) or not isinstance(value.get("array"), str):
        return value
    content = base64.b64decode(value["array"], validate=True)
    return torch.from_numpy(np.array(np.load(BytesIO(content), allow_pickle=False)))
