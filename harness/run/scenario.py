"""Scenarios: the recorded inputs of a session, as one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import open_tensors, replacing
from waypoint_parity.harness.run.digest import values_digest
from waypoint_parity.harness.run.family import Family, family_named

SCHEMA = "waypoint-parity/scenario/2"
# Before families had names there was one.
_FIRST_SCHEMA, _FIRST_FAMILY = "waypoint-parity/scenario/1", "waypoint"
_WIDE = (torch.float32, torch.float64)
WHOLE = "whole number of 64 bits"
_OWN_KEYS = ("schema", "family", "name", "seed", "units", "numbers")


@dataclass(frozen=True)
class Scenario:
    """The inputs of a session of some units, exactly as an implementation is to consume them.

    `tensors` and `numbers` are the fields of its family; `labels` says where they come from and counts for nothing.
    """

    family: str
    name: str
    seed: int
    units: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor of this name. Raises KeyError where there is none."""
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        """The tensor of this name, where there is one."""
        return self.tensors.get(name)

    def with_tensors(self, **tensors: Tensor | None) -> Self:
        """The same with other tensors; None takes one away."""
        kept = {name: tensor for name, tensor in {**self.tensors, **tensors}.items() if tensor is not None}
        return replace(self, tensors=kept)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of the tensors, and the numbers; its name does not count."""
        numbers = json.dumps(dict(sorted(self.numbers.items()))) if self.numbers else ""
        return values_digest(numbers, sorted(self.tensors.items()))


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises UserError for a broken file, an unknown schema, and missing or unknown fields."""
    with open_tensors(path, called="a scenario") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
        try:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a handle is no mapping
        except SafetensorError as error:
            raise UserError(
                f"{path}: cannot be read as a scenario",
                found=str(error),
                expected="tensors of types that torch has",
                do="make the scenario again: waypoint-parity scenario --help",
            ) from error
    if metadata.get("schema", _FIRST_SCHEMA) not in (SCHEMA, _FIRST_SCHEMA):
        raise UserError(
            f"{path}: unknown scenario schema",
            found=metadata["schema"],
            expected=SCHEMA,
            do="make the scenario again, or use a release of waypoint-parity that knows its schema",
        )
    family = family_named(metadata.get("family", _FIRST_FAMILY))
    problems, numbers = _numbers(metadata)
    problems += [*_problems(tensors, family), *family.problems(tensors, metadata)]
    if not problems and "units" in metadata and int(metadata["units"]) != (held := family.units(tensors)):
        problems = [f"units {metadata['units']}, and tensors of {held}"]
    if problems:
        required = [name for name, known in family.fields.items() if known.required]
        optional = [name for name in family.fields if name not in required]
        raise UserError(
            f"{path}: is not a scenario",
            found=listed(problems),
            expected=f"{listed(required)}" + (f", and perhaps {listed(optional)}" if optional else ""),
            do="make the scenario again: waypoint-parity scenario --help"
            if tensors.keys() & family.fields.keys()
            else "name a file that `waypoint-parity scenario make` wrote; this one holds something else",
        )
    return Scenario(
        family=family.name,
        name=metadata.get("name", path.stem),
        seed=int(metadata.get("seed", "0")),
        units=int(metadata["units"]) if "units" in metadata else family.units(tensors),
        tensors=tensors,
        numbers=numbers,
        labels={name: value for name, value in metadata.items() if name not in _OWN_KEYS},
    )


def _numbers(metadata: Mapping[str, str]) -> tuple[list[str], dict[str, float]]:
    """What is wrong with the numbers that a file's metadata hold as text; and those of the scenario."""
    whole = {name: metadata[name] for name in ("seed", "units") if name in metadata}
    problems = [f"{name} {text[:24]} is no {WHOLE}" for name, text in whole.items() if not is_whole(text)]
    try:
        numbers = {str(name): float(value) for name, value in json.loads(metadata.get("numbers", "{}")).items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return [*problems, "numbers are no JSON object of numbers"], {}
    return [*problems, *(f"{name} is not finite" for name, value in numbers.items() if not isfinite(value))], numbers


def is_whole(text: str) -> bool:
    """Whether a text is a whole number that a generator takes as its seed: one of 64 bits, with or without a sign."""
    return len(text) <= 20 and text.removeprefix("-").isdecimal() and -(2**63) <= int(text) < 2**64


def _problems(tensors: Mapping[str, Tensor], family: Family) -> list[str]:
    """What is wrong with the fields of a scenario file; shapes are a matter between it and a checkpoint."""
    fields = family.fields
    problems = [f"lacks {name}" for name, known in fields.items() if known.required and name not in tensors]
    problems += [f"{name} is a single number" for name, tensor in tensors.items() if tensor.ndim == 0]
    problems += [f"unknown {name}" for name in sorted(tensors.keys() - fields.keys())]
    problems += [
        f"{name} is {tensor.dtype}, not torch.{fields[name].dtype}"
        for name, tensor in tensors.items()
        if name in fields and str(tensor.dtype) != f"torch.{fields[name].dtype}"
    ]
    problems += [
        f"{name} holds values that are not finite"
        for name, tensor in tensors.items()
        if name in fields and tensor.dtype in _WIDE and not torch.isfinite(tensor).all()
    ]
    return problems


def write_scenario(scenario: Scenario, path: Path) -> None:
    """Write `scenario` as a whole. Raises UserError where that is impossible."""
    metadata = {
        "schema": SCHEMA,
        "family": scenario.family,
        "name": scenario.name,
        "seed": str(scenario.seed),
        "units": str(scenario.units),
        **scenario.labels,
    }
    if scenario.numbers:
        metadata["numbers"] = json.dumps(dict(scenario.numbers))
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in scenario.tensors.items()}, partial, metadata)
