"""Manifests of the first schema, when a unit was a frame and there was no other family."""

from typing import Any

import msgspec


class FirstManifest(msgspec.Struct):
    """What a manifest of the first schema says in other words: `passes` by phase and step, as in "denoise0"."""

    frames: int | None = None
    passes: dict[str, list[str]] | None = None
    rings: list[dict[str, Any]] | None = None
    selection: dict[str, Any] | None = None


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest of the first schema in the names of the second. What came before the frames was in unit 0.

    Raises msgspec.ValidationError for values of other types.
    """
    first = msgspec.convert(values, FirstManifest)
    kept = {name: value for name, value in values.items() if name not in first.__struct_fields__}
    if first.rings is not None:
        kept["caches"] = [{"name": f"kv_cache.layers.{layer}", **ring} for layer, ring in enumerate(first.rings)]
    if first.passes is not None and first.frames is not None:
        named = [(name.rstrip("0123456789"), name, sites) for name, sites in first.passes.items()]
        kept["passes"] = [
            {
                "phase": phase,
                "step": int(name[len(phase) :] or 0),
                "units": [(0, 1 if phase in ("prompt", "image") else first.frames)],
                "sites": sites,
            }
            for phase, name, sites in named
        ]
    if first.selection is not None:
        chosen = {"units" if name == "frames" else name: value for name, value in first.selection.items()}
        kept["selection"] = {**chosen, "stepped": ["denoise"]}
    return {**kept, "units": first.frames}
