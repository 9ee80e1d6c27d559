"""What a checkpoint holds, whether it is whole, and whether an implementation takes all of it up.

Unlike `open_checkpoint`, which refuses a checkpoint that does not fit its config, an inspection says everything that is
wrong with one. It is true where nothing is.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from harness import inventory
from harness.adapter import Numerics
from harness.checkpoint import Checkpoint
from harness.digest import fast_digest
from harness.loading import Loading, load_poisoned
from harness.renames import Rename, proposed
from harness.settings import SideBySide, beside_checkpoint
from harness.weights import Weights

TIED = "cond_head.cond_proj."
FP32_ON_CPU = Numerics(torch.float32, torch.device("cpu"))


@dataclass(frozen=True)
class Entry:
    """One stored tensor; `dtype` as safetensors spells it."""

    key: str
    shape: inventory.Shape
    dtype: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Part:
    """One of the two models: its tensors, and how they differ from what its config asks for.

    A key is named once: what is `renamed` is neither missing nor extra.
    """

    name: str
    tensors: list[Entry]
    missing: list[str]
    extra: list[str]
    misshapen: list[str]
    renamed: list[Rename]
    not_finite: list[str]

    def __bool__(self) -> bool:
        return not (self.missing or self.extra or self.misshapen or self.renamed or self.not_finite)


@dataclass(frozen=True)
class Inspection:
    """Everything that was found. `untied` names the copies of a shared matrix that differ from the others."""

    origin: str
    digest: str
    parts: list[Part]
    untied: list[str]
    loading: Loading | None
    compared: list[SideBySide]

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
    transformer, autoencoder = checkpoint.transformer_files, checkpoint.autoencoder_files
    parts = [
        _part("transformer", transformer, inventory.transformer_keys(checkpoint.transformer)),
        _part("autoencoder", autoencoder, inventory.autoencoder_keys(checkpoint.autoencoder)),
    ]
    untied = untied_copies(transformer)
    loading = None
    if implementation is not None:
        loading = load_poisoned(implementation, checkpoint, numerics, sound=all(parts) and not untied)
    compared = [] if against is None else beside_checkpoint(checkpoint, against)
    return Inspection(checkpoint.origin, checkpoint.digest, parts, untied, loading, compared)


def _part(name: str, weights: Weights, expected: Mapping[str, inventory.Shape]) -> Part:
    stored = weights.stored()
    shapes = {key: entry.shape for key, entry in stored.items()}
    mismatch = inventory.compare(shapes, expected)
    renamed = proposed({key: expected[key] for key in mismatch.missing}, {key: shapes[key] for key in mismatch.extra})
    paired = {rename.expected for rename in renamed} | {rename.found for rename in renamed}
    return Part(
        name,
        [Entry(key, entry.shape, entry.dtype, entry.parameters, entry.bytes) for key, entry in stored.items()],
        missing=[key for key in mismatch.missing if key not in paired],
        extra=[key for key in mismatch.extra if key not in paired],
        misshapen=mismatch.misshapen,
        renamed=renamed,
        not_finite=[key for key, tensor in weights.stream() if not torch.isfinite(tensor).all()],
    )


def untied_copies(weights: Weights) -> list[str]:
    """The keys of the shared conditioning matrices that are not equal to those of most blocks.

    Where no value has a majority, the first block's is taken for right.
    """
    copies: dict[str, dict[str, str]] = defaultdict(dict)
    for key, tensor in weights.stream(TIED):
        copies[key.partition(TIED)[2]][key] = fast_digest(tensor)
    untied = []
    for blocks in copies.values():
        first = blocks.get(min(blocks, key=_block))
        value, count = Counter(blocks.values()).most_common(1)[0]
        shared = value if 2 * count > len(blocks) else first
        untied += [key for key, digest in blocks.items() if digest != shared]
    return sorted(untied, key=_block)


def _block(key: str) -> tuple[int, str]:
    """Blocks in the order of their numbers: 2 before 10."""
    return int(key.partition("blocks.")[2].partition(".")[0]), key
