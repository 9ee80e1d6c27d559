"""What holds a checkpoint on disk, in whatever layout: config files, and weights in one file or several."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from waypoint_parity.harness.checkpoint.weights import Index, Weights
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.files import mistaken_for


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a JSON or YAML file holds. Raises UserError for none, and for a key that it has twice."""
    try:
        if path.suffix == ".json":
            values = json.loads(path.read_bytes(), object_pairs_hook=_once)
        else:
            values = yaml.load(path.read_text("utf-8"), Loader=_OnceLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        found, do = mistaken_for(path) or (str(error), "repair the file")
        raise UserError(f"{path}: cannot be read", found=found, expected="a JSON or YAML mapping", do=do) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(
            f"{path}: is not a mapping",
            found=type(values).__name__ if not isinstance(values, dict) else "keys that are no text",
            expected="keys and values",
            do="repair the file",
        )
    return values


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Raises ValueError for a key that a mapping has twice: which value counts, readers decide differently."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]} is there twice")
    return values


class _OnceLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        _once([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def sharded(whole: Path) -> Weights:
    """The one weights file, or the shards that an index beside it names. Raises UserError where both are there."""
    index = whole.with_name(f"{whole.name}.index.json")
    if not index.is_file():
        return Weights({whole: ""})
    if whole.exists():
        raise UserError(
            f"{whole.parent}: holds the weights twice",
            found=f"{whole.name}, and {index.name} with its shards",
            expected="one of the two",
            do="move away the one that is not meant",
        )
    homes = read_mapping(index).get("weight_map")
    names = set(homes.values()) if isinstance(homes, dict) and all(map(_inside, homes.values())) else set()
    if not isinstance(homes, dict) or not names:
        raise UserError(
            f"{index}: does not tell which file holds which key",
            found=f"weight_map: {homes!r}"[:200],
            expected="weight_map, from key to the name of a file beside the index",
            do="fetch or save the index again",
        )
    return Weights({whole.with_name(name): "" for name in sorted(names)}, Index(index, homes))


def _inside(name: object) -> bool:
    """Whether it names a file beside the index, and nothing elsewhere."""
    return isinstance(name, str) and name not in ("", "..") and "\0" not in name and Path(name).name == name


def save_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the tensors of a model into one file."""
    # Loaders of the diffusers family refuse a file that does not name the framework.
    save_file(tensors, path, {"format": "pt"})
