"""Manifests of the first schema, when a unit was a frame and there was no other family."""

from typing import Any


def upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """A manifest of the first schema in the names of this one. What came before the frames was in unit 0."""
    units, passes, rings = values.get("frames"), values.get("passes"), values.get("rings")
    renamed = {name: value for name, value in values.items() if name not in ("frames", "passes", "rings")}
    if isinstance(rings, list):
        renamed["caches"] = [{"name": f"kv_cache.layers.{layer}", **ring} for layer, ring in enumerate(rings)]
    if isinstance(passes, dict) and isinstance(units, int):
        named = [(name.rstrip("0123456789"), name, sites) for name, sites in passes.items()]
        renamed["passes"] = [
            {
                "phase": phase,
                "step": int(name[len(phase) :] or 0),
                "units": [(0, 1 if phase in ("prompt", "image") else units)],
                "sites": sites,
            }
            for phase, name, sites in named
        ]
    if isinstance(selection := values.get("selection"), dict):
        chosen = {"units" if name == "frames" else name: value for name, value in selection.items()}
        renamed["selection"] = {**chosen, "stepped": ["denoise"]}
    return {**renamed, "units": units}
