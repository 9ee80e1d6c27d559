"""What a checkpoint holds, whether it is whole, and whether an implementation takes all of it up.

Unlike `open_checkpoint`, which refuses a checkpoint that does not fit its config, an inspection says everything that is
wrong with one. It is true where nothing is.

Keys that were probably renamed: missing under one name, extra under another.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from typing import Any

import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.configs import SideBySide, beside_checkpoint
from waypoint_parity.harness.checkpoint.loading import Loading, load_poisoned
from waypoint_parity.harness.checkpoint.weights import Shape, Weights, compared, finite, untied_copies
from waypoint_parity.harness.run.adapter import Numerics

# Below it, names of one shape have no more in common than `weight` and the block they lie in.
_SIMILAR = 0.7


@dataclass(frozen=True)
class Rename:
    """A key that the config asks for, and the one that was found in its place."""

    expected: str
    found: str

    @property
    def rule(self) -> tuple[str, str]:
        """What changes, from the first differing name of the path to the last, with block numbers left out of it."""
        expected, found = self.expected.split("."), self.found.split(".")
        while len(expected) > 1 and len(found) > 1 and expected[0] == found[0]:
            expected, found = expected[1:], found[1:]
        while len(expected) > 1 and len(found) > 1 and expected[-1] == found[-1]:
            expected, found = expected[:-1], found[:-1]
        return ".".join(expected), ".".join(found)


def proposed(missing: Mapping[str, Shape], extra: Mapping[str, Shape]) -> list[Rename]:
    """One-to-one pairs of equal shape, equal numbers in the path and similar name, the most similar first served.

    A number says which block or matrix a key belongs to: keys of two blocks are never one renamed key.
    """
    alike: dict[object, list[str]] = defaultdict(list)
    for key, shape in extra.items():
        alike[shape, _numbers(key)].append(key)
    candidates = [
        (*_likeness(key, found), key, found) for key, shape in missing.items() for found in alike[shape, _numbers(key)]
    ]
    pairs: list[Rename] = []
    taken: set[str] = set()
    for _, similarity, key, found in sorted(candidates, key=lambda pair: (-pair[0], -pair[1], *pair[2:])):
        if similarity >= _SIMILAR and key not in taken and found not in taken:
            taken |= {key, found}
            pairs.append(Rename(key, found))
    return sorted(pairs, key=lambda pair: pair.expected)


def _likeness(one: str, other: str) -> tuple[int, float]:
    """How many words two keys share (`q_proj` and `to_q` share one), and what part of their letters in order."""
    words, others = (set(re.split(r"[._]", key)) for key in (one, other))
    return len(words & others), SequenceMatcher(None, one, other, autojunk=False).ratio()


def rules(renames: Iterable[Rename]) -> list[tuple[str, str, int]]:
    """(expected, found, how many keys) of every rule that the renames follow, the most frequent first."""
    return [(*rule, count) for rule, count in Counter(rename.rule for rename in renames).most_common()]


def _numbers(key: str) -> tuple[str, ...]:
    return tuple(part for part in key.split(".") if part.isdigit())


FP32_ON_CPU = Numerics(torch.float32, torch.device("cpu"))


@dataclass(frozen=True)
class StoredTensor:
    """One stored tensor; `dtype` as safetensors spells it."""

    key: str
    shape: Shape
    dtype: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class ComponentReport:
    """One component: its tensors, and how they differ from what its config asks for.

    A key is named once: what is `renamed` is neither missing nor extra. `ties` maps keys that the files leave out to
    those that share their tensor. Matrices that are all `zero` are told, and no fault: some are made so.
    """

    name: str
    files: list[str]
    unread: list[str]
    tensors: list[StoredTensor]
    missing: list[str]
    extra: list[str]
    misshapen: list[str]
    renamed: list[Rename]
    codes: str | None
    not_finite: list[str]
    ties: Mapping[str, str]
    zero: list[str]

    def __bool__(self) -> bool:
        wrong = self.missing, self.extra, self.misshapen, self.renamed, self.codes, self.not_finite
        return not any(wrong)


@dataclass(frozen=True)
class Inspection:
    """Everything that was found. `untied` names the copies of a shared matrix that differ from the others.

    `told` is what the family says of weights that have nothing wrong with them.
    """

    origin: str
    digest: str
    parts: list[ComponentReport]
    untied: list[str]
    loading: Loading | None
    compared: list[SideBySide]
    told: list[str]

    def __bool__(self) -> bool:
        return all(self.parts) and not self.untied and (self.loading is None or bool(self.loading))

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict first."""
        return {"sound": bool(self)} | {field.name: getattr(self, field.name) for field in fields(self)}


def inspect_checkpoint(
    checkpoint: Checkpoint,
    implementation: str | None = None,
    against: Checkpoint | None = None,
    *,
    numerics: Numerics = FP32_ON_CPU,
) -> Inspection:
    """Inspect a checkpoint that may have been opened unchecked.

    With an `implementation`, that loads it in its `numerics`, and what it leaves uninitialised is found; with another
    checkpoint `against` which to compare, the configs are laid side by side. Raises UserError where there is no such
    implementation, and where one refuses a checkpoint that has nothing wrong with it.
    """
    family, geometry = checkpoint.family, checkpoint.geometry
    parts = [_part(name, files, family.keys(name, geometry)) for name, files in checkpoint.files.items()]
    untied = [key for name, files in checkpoint.files.items() for key in untied_copies(files, family.tied.get(name))]
    loading = None
    if implementation is not None:
        loading = load_poisoned(implementation, checkpoint, numerics, sound=all(parts) and not untied)
    compared = [] if against is None else beside_checkpoint(checkpoint, against)
    told = family.weight_lines(checkpoint.files, geometry)
    return Inspection(checkpoint.origin, checkpoint.digest, parts, untied, loading, compared, told)


def _part(name: str, weights: Weights, expected: Mapping[str, Shape] | None) -> ComponentReport:
    """What a component holds; without `expected` nothing is missing, and nothing is too much."""
    stored = weights.stored()
    shapes = {key: entry.shape for key, entry in stored.items()}
    mismatch = compared(shapes, shapes if expected is None else expected)
    wanted = {key: (expected or {})[key] for key in mismatch.missing}
    renamed = proposed(wanted, {key: shapes[key] for key in mismatch.extra})
    paired = {rename.expected for rename in renamed} | {rename.found for rename in renamed}
    not_finite, zero = [], []
    for key, tensor in weights.stream():
        if not finite(tensor):
            not_finite.append(key)
        if tensor.ndim > 1 and not tensor.view(torch.uint8).any():
            zero.append(key)
    return ComponentReport(
        name,
        files=[path.name for path in weights.files],
        unread=weights.unread(),
        tensors=[
            StoredTensor(key, entry.shape, entry.dtype, entry.parameters, entry.bytes) for key, entry in stored.items()
        ],
        missing=[key for key in mismatch.missing if key not in paired],
        extra=[key for key in mismatch.extra if key not in paired],
        misshapen=mismatch.misshapen,
        renamed=renamed,
        codes=weights.codes(stored if expected is None else expected),
        not_finite=not_finite,
        ties=weights.ties,
        zero=zero,
    )
