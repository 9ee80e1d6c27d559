"""The tensors of one model, spread over safetensors files."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import load_pickle, open_tensors, reading
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import block_of

Shape = tuple[int, ...]
# Of a component in the diffusers layout.
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
# Types that hold a weight as it is. In any other one it is a number of a code, or has lost a part.
_PLAIN = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# Words for what a quantised weight is multiplied by, or shifted by, in the names of keys and metadata.
_SCALES = re.compile(r"scale|quant|absmax|qweight|qzeros|zero_point|g_idx|\bscb\b|scaled_fp8", re.IGNORECASE)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_OTHER_FORMATS = (".gguf", ".msgpack", ".h5", ".onnx", ".npz")


@dataclass(frozen=True)
class Mismatch:
    """How the keys found differ from the keys expected; false where they do not."""

    missing: list[str]
    extra: list[str]
    misshapen: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.misshapen)


def compared(found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Mismatch:
    """Every key that one side lacks, and every key whose shape differs ("key [found], not [expected]")."""
    common = found.keys() & expected.keys()
    return Mismatch(
        missing=sorted(expected.keys() - found.keys()),
        extra=sorted(found.keys() - expected.keys()),
        misshapen=[
            f"{key} {list(found[key])}, not {list(expected[key])}"
            for key in sorted(common)
            if found[key] != expected[key]
        ],
    )


@dataclass(frozen=True)
class Stored:
    """How a file stores one tensor; `dtype` as the file format spells it (F32, BF16, ...)."""

    shape: Shape
    dtype: str

    @property
    def parameters(self) -> int:
        """How many values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes of the file; a dtype's name holds its width in bits, but for BOOL."""
        width = re.search(r"\d+", self.dtype)
        return self.parameters * int(width[0] if width else 8) // 8


@dataclass(frozen=True)
class Index:
    """The index of a sharded model: `homes` maps every key to the name of the file that holds it."""

    path: Path
    homes: Mapping[str, str]

    def check(self, found: Mapping[str, Path]) -> None:
        """Raise UserError, naming keys and files, where the files do not hold what the index says."""
        lacking = [f"{key} ({name})" for key, name in self.homes.items() if found.get(key) != self.path.parent / name]
        unnamed = [f"{key} ({path.name})" for key, path in found.items() if key not in self.homes]
        if not lacking and not unnamed:
            return
        kinds = {"not in the file that the index names": lacking, "not in the index": unnamed}
        raise UserError(
            f"{self.path}: the index and the files contradict each other",
            found="; ".join(f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds.items() if keys),
            expected="every key in the one file that the index names for it",
            do="fetch or save index and files again, together",
        )


@dataclass(frozen=True)
class Rewrite:
    """How a tensor is made `of` others, which the files hold in another spelling of the model."""

    of: tuple[str, ...]
    make: Callable[..., Tensor]

    def stored(self, files: Mapping[str, Stored]) -> Stored:
        """How it would be stored. Raises UserError where the shapes of the others do not go together."""
        parts = [files[key] for key in self.of]
        try:
            made = self.make(*(torch.empty(part.shape, device="meta") for part in parts))
        except (RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                "weights of one layer do not go together",
                found=listed([f"{key} {list(files[key].shape)}" for key in self.of]),
                expected="shapes of one layer",
                do="fetch or save the checkpoint again",
            ) from error
        return Stored(tuple(made.shape), parts[0].dtype)


@dataclass(frozen=True)
class Weights:
    """The tensors of one model, spread over files; `files` maps each file to the prefix its keys lack.

    Files are in safetensors, or torch's own, of which only tensors are read. `ties` maps a key that the files leave out
    to the one whose tensor it shares. `rewrites` are keys that are made of others; those others, and what is `unused`,
    are no keys of the model.
    """

    files: Mapping[Path, str]
    index: Index | None = None
    ties: Mapping[str, str] = field(default_factory=dict)
    rewrites: Mapping[str, Rewrite] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()

    def stored(self) -> dict[str, Stored]:
        """Key -> how the tensor is stored, sorted by key, from the file headers alone.

        Raises UserError for a file that cannot be read, a key in two files, and an index that contradicts the files.
        """
        handles, homes = self._opened()
        entries = {key: handles[path].get_slice(name) for key, (path, name) in homes.items()}
        files = {key: Stored(tuple(entry.get_shape()), entry.get_dtype()) for key, entry in entries.items()}
        found = {key: stored for key, stored in files.items() if key not in self._spent}
        found |= {key: rewrite.stored(files) for key, rewrite in self.rewrites.items()}
        found |= {key: found[kept] for key, kept in self.ties.items()}
        return dict(sorted(found.items()))

    def as_stored(self) -> Self:
        """The tensors as the files spell them."""
        return replace(self, rewrites={}, unused=frozenset(), ties={}) if self.rewrites or self.unused else self

    def shapes(self) -> dict[str, Shape]:
        """Key -> shape, from the file headers alone."""
        return {key: stored.shape for key, stored in self.stored().items()}

    def with_ties(self, expected: Mapping[str, Shape] | None, tied: str | None) -> Self:
        """These weights, with the `expected` keys read that were left out because another key has the same tensor.

        Which one it is, the metadata of a file say, as safetensors writes them; or it is a matrix that all blocks
        share, with `tied` in its name, and those that are there agree.
        """
        if expected is None:
            return self
        found = self.shapes()
        handles, _ = self._opened()
        told = {
            prefix + left_out: prefix + kept
            for path, prefix in self.files.items()
            for left_out, kept in (handles[path].metadata() or {}).items()
        }
        left_out = expected.keys() - found.keys()
        if tied is not None and any(tied in key for key in left_out):
            unsure = {key.partition(tied)[2] for key in untied_copies(self, tied)}
            for key in found.keys() & expected.keys():
                matrix = key.partition(tied)[2]
                if tied in key and matrix not in unsure:
                    told |= {other: key for other in left_out if other.partition(tied)[2] == matrix and tied in other}
        ties = {key: told[key] for key in sorted(left_out) if found.get(told.get(key, "")) == expected[key]}
        return replace(self, ties=ties)

    def check(self, expected: Mapping[str, Shape]) -> None:
        """Raise UserError, naming the keys, where the files do not hold exactly the `expected` tensors as they are."""
        stored = self.stored()
        if codes := self.codes(expected):
            raise UserError(
                f"{self._named()}: the weights are not stored as plain numbers",
                found=codes,
                expected=f"every weight in {', '.join(_PLAIN)}, without a scale",
                do="take the checkpoint that is not quantised, or save it with its scales applied",
            )
        mismatch = compared({key: entry.shape for key, entry in stored.items()}, expected)
        if not mismatch:
            return
        if prefix := _prefix(stored, expected):
            raise UserError(
                f"{self._named()}: the weights were saved with what wraps the model",
                found=f"{prefix} before every key",
                expected=f"keys such as {min(expected)}",
                do=f"save them again without it, as key.removeprefix({prefix!r})",
            )
        parts = {"missing": mismatch.missing, "extra": mismatch.extra, "misshapen": mismatch.misshapen}
        raise UserError(
            f"{self._named()}: the weights do not fit the config",
            found="; ".join(f"{len(keys)} {part}: {listed(keys)}" for part, keys in parts.items() if keys),
            expected=f"exactly the {len(expected)} tensors that the config asks for",
            do="pair the weights with their config; `waypoint-parity info` tells keys that were probably renamed",
        )

    def codes(self, expected: Collection[str]) -> str | None:
        """What shows that the files hold codes in place of weights; None where nothing does.

        Plain fp8 is no code. With a scale beside it, or one in the metadata, it is.
        """
        stored, (handles, _) = self.stored(), self._opened()
        by_type: dict[str, list[str]] = defaultdict(list)
        for key, entry in stored.items():
            if entry.dtype not in _PLAIN:
                by_type[entry.dtype].append(key)
        narrow = bool(by_type) or any(entry.dtype.startswith("F8") for entry in stored.values())
        scales = [key for key in stored if key not in expected and _SCALES.search(key)]
        told = [word for handle in handles.values() for word in handle.metadata() or {}]
        told = [word for word in told if word not in expected and _SCALES.search(word)]
        signs = [f"{len(keys)} as {dtype}: {listed(keys)}" for dtype, keys in by_type.items()]
        if narrow or "qweight" in " ".join(scales):
            signs += [f"{len(scales)} scales: {listed(scales)}"] if scales else []
        signs += [f"metadata: {listed(told)}"] if told else []
        return "; ".join(signs) or None

    def load(self) -> dict[str, Tensor]:
        """Every tensor as stored, on the CPU; fp8, with which nothing can be computed, as bf16, which holds its values.

        Raises UserError, naming the keys, for values that are not finite in fp32.
        """
        tensors = {
            key: tensor.bfloat16() if str(tensor.dtype).startswith("torch.float8") else tensor
            for key, tensor in self.stream()
        }
        if broken := sorted(key for key, tensor in tensors.items() if not finite(tensor)):
            raise UserError(
                f"{self._named()}: weights hold NaN or infinity",
                found=listed(broken),
                expected="values in every weight that are finite in fp32",
                do="fetch or convert the checkpoint again; a reduced-precision conversion may have overflowed",
            )
        return tensors

    def stream(self, containing: str = "") -> Iterator[tuple[str, Tensor]]:
        """(key, tensor) one at a time, sorted by key, whatever file it lies in; only keys `containing` a text.

        Raises UserError for a type that torch does not have.
        """
        handles, homes = self._opened()

        def read(key: str) -> Tensor:
            path, name = homes[key]
            try:
                tensor: Tensor = handles[path].get_tensor(name)
            except SafetensorError as error:
                raise UserError(
                    f"{path}: a tensor cannot be read",
                    found=f"{name}: {error}",
                    expected=f"weights in {', '.join(_PLAIN)}",
                    do="take the checkpoint that is not quantised",
                ) from error
            return tensor

        for key in sorted({*homes} - self._spent | {*self.rewrites, *self.ties}):
            if containing not in key:
                continue
            kept = self.ties.get(key, key)
            rewrite = self.rewrites.get(kept)
            tensor = read(kept) if rewrite is None else rewrite.make(*map(read, rewrite.of))
            # Each is memory of its own, as if the files held it.
            yield key, tensor.clone() if key in self.ties else tensor

    @cached_property
    def _spent(self) -> frozenset[str]:
        """Keys of the files that are none of the model."""
        return self.unused.union(*(rewrite.of for rewrite in self.rewrites.values()))

    def unread(self) -> list[str]:
        """Names of files of weights that lie beside those that are read, such as another precision of the same."""
        folders = sorted({path.parent for path in self.files})
        return [entry.name for folder in folders for entry in _weights_in(folder) if entry not in self.files]

    def _opened(self) -> tuple[dict[Path, Any], dict[str, tuple[Path, str]]]:
        """The open files, and of every key the file that holds it and its name there."""
        handles = {path: _open(path) for path in self.files}
        homes: dict[str, tuple[Path, str]] = {}
        for path, prefix in self.files.items():
            for name in handles[path].keys():  # noqa: SIM118 - a handle is no mapping
                key = prefix + name
                if key in homes:
                    raise UserError(
                        f"{path.parent}: two files hold the same key",
                        found=f"{key} in {homes[key][0].name} and {path.name}",
                        expected="every key in one file",
                        do="fetch or save the checkpoint again; only one of the two is right",
                    )
                homes[key] = path, name
        if self.index is not None:
            self.index.check({key: path for key, (path, _) in homes.items()})
        return handles, homes

    def _named(self) -> str:
        return listed([str(path) for path in self.files])


def finite(tensor: Tensor) -> bool:
    """Whether every value is finite as implementations take it up, in fp32 or less; codes of values always are."""
    if tensor.dtype not in _PLAIN.values():
        return True
    narrow = tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return bool(torch.isfinite(tensor if narrow else tensor.float()).all())


def untied_copies(weights: Weights, tied: str | None) -> list[str]:
    """The keys of matrices shared by all blocks, with `tied` in their names, that are not equal to those of most.

    Where no value has a majority, the first block's is taken for right.
    """
    copies: dict[str, dict[str, str]] = defaultdict(dict)
    if tied is None:
        return []
    for key, tensor in weights.stream(tied):
        copies[key.partition(tied)[2]][key] = fast_digest(tensor)
    untied = []
    for blocks in copies.values():
        first = blocks.get(min(blocks, key=_block))
        value, count = Counter(blocks.values()).most_common(1)[0]
        shared = value if 2 * count > len(blocks) else first
        untied += [key for key, digest in blocks.items() if digest != shared]
    return sorted(untied, key=_block)


def _block(key: str) -> tuple[int, str]:
    """Blocks in the order of their numbers: 2 before 10."""
    return block_of(key) or 0, key


def _prefix(found: Collection[str], expected: Collection[str]) -> str | None:
    """What stands before every key and is too much, such as `module.`; None where that is not all that is wrong."""
    first = min(found, default="")
    prefixes = (first[: place + 1] for place, letter in enumerate(first) if letter == ".")
    return next(
        (
            prefix
            for prefix in prefixes
            if all(key.startswith(prefix) and key.removeprefix(prefix) in expected for key in found)
        ),
        None,
    )


class _Pickled:
    """A file of torch's own, with the methods of an open safetensors file."""

    def __init__(self, path: Path) -> None:
        held = load_pickle(path)
        if not isinstance(held, Mapping) or not all(map(_is_plain, held.values())):
            raise UserError(
                f"{path}: is not a file of weights",
                found=f"{type(held).__name__} of other things than plain tensors",
                expected="a mapping from key to tensor, each strided and with memory, none of it quantised",
                do="save the model's state_dict() alone",
            )
        self._tensors: Mapping[str, Tensor] = {str(key): value for key, value in held.items()}

    def keys(self) -> Collection[str]:
        return self._tensors.keys()

    def metadata(self) -> dict[str, str]:
        return {}

    def get_slice(self, key: str) -> "_Slice":
        return _Slice(self._tensors[key])

    def get_tensor(self, key: str) -> Tensor:
        return self._tensors[key].detach().clone()


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and not (value.is_meta or value.is_quantized or value.is_nested)
    )


@dataclass(frozen=True)
class _Slice:
    tensor: Tensor

    def get_shape(self) -> list[int]:
        return list(self.tensor.shape)

    def get_dtype(self) -> str:
        named = {dtype: name for name, dtype in _PLAIN.items()}
        return named.get(self.tensor.dtype, str(self.tensor.dtype).removeprefix("torch."))


def _open(path: Path) -> Any:
    """The open file. Raises UserError; where it is absent, with what lies in its place."""
    with reading(path.parent):
        absent = path.parent.is_dir() and not path.exists() and not path.is_symlink()
        others = _weights_in(path.parent) if absent else []
    if not absent:
        return _Pickled(path) if path.suffix in _PICKLES else open_tensors(path, called="safetensors")
    tensors = [entry for entry in others if entry.suffix == ".safetensors"]
    pickles = [entry for entry in others if entry.suffix in _PICKLES]
    if any("-of-" in entry.name for entry in [*tensors, path]):
        do = "fetch what is missing: every shard, and the index that says which key lies in which"
    elif tensors:
        do = f"rename the file that belongs to this config to {path.name}"
    elif pickles:
        do = (
            'convert it, without running code in it: python -c "import torch; from safetensors.torch import save_file; '
            f"held = torch.load({str(pickles[0])!r}, map_location='cpu', weights_only=True); "
            f"save_file({{key: held[key].clone() for key in held}}, {str(path)!r}, {{'format': 'pt'}})\""
        )
    else:
        do = "convert the weights to safetensors" if others else "fetch the weights"
    raise UserError(
        f"{path}: the weights are not there",
        found=listed([entry.name for entry in others]) or "no file of weights in the folder",
        expected=path.name,
        do=do,
    )


def _weights_in(folder: Path) -> list[Path]:
    """Every file of a folder that holds weights, judged by its name."""
    suffixes = (".safetensors", *_PICKLES, *_OTHER_FORMATS)
    return sorted(entry for entry in folder.iterdir() if entry.suffix in suffixes)
