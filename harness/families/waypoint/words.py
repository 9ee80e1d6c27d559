"""Words of Waypoint for how a part's errors show: statements with a truth of their own, from the faulty keys alone.

What they may mean is said by the kinds of fault (harness/families/waypoint/kinds).
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from waypoint_parity.harness.families.waypoint.config import TransformerConfig, WaypointGeometry
from waypoint_parity.harness.families.waypoint.scenario import planned, schedule
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.keys import At, Key, last_name
from waypoint_parity.harness.run.scenario import Scenario

_SITES: Mapping[frozenset[str], str] = {
    frozenset({"q_proj"}): "queries only",
    frozenset({"q_rope"}): "queries only",
    frozenset({"k_proj"}): "keys only",
    frozenset({"k_rope"}): "keys only",
    frozenset({"v_proj"}): "values only",
    frozenset({"k_proj", "v_proj"}): "keys and values",
    frozenset({"gate_proj"}): "gates only",
    frozenset({"button"}): "buttons only",
    frozenset({"mouse"}): "mouse only",
    frozenset({"scroll"}): "scroll only",
    frozenset({"prompt_pad_mask"}): "mask only",
    frozenset({"visible"}): "visibility only",
    frozenset({"conv_in"}): "first convolution only",
    frozenset({"conv_out"}): "last convolution only",
}
# Sites at which the two kinds of rings can make a difference.
_OF_RINGS = frozenset({"q_rope", "k_rope", "attn", "kv", "written", "visible"})


def words(first: Key, faults: Collection[Key], geometry: WaypointGeometry, scenario: Scenario) -> list[str]:
    """What is true of the first faulty observation, and of all of them."""
    steps = len(schedule(scenario, geometry.transformer)) - 1
    session = [at.at(frame) for frame, at in planned(scenario, geometry.transformer)]
    return [*_onset(first, geometry.transformer, scenario, steps), *_extent(faults, geometry, session)]


def _onset(first: Key, config: TransformerConfig, scenario: Scenario, steps: int) -> list[str]:
    generated = first.phase not in ("prompt", "image")
    clock = _clock(first, scenario)
    statements = {
        "prompt": first.phase == "prompt",
        "image": first.phase == "image",
        "frame 0": generated and first.unit == 0,
        "frame 1": generated and first.unit == 1,
        "clock 0": clock == 0,
        "clock 1": clock == 1,
        "cache pass": first.phase == "cache",
        "decode": first.phase == "decode",
        "local ring full": clock == config.local_window,
        "dilated ring full": clock == config.global_window,
        "first skipped frame": clock == 1 and config.global_pinned_dilation > 1,
        "first control": generated and first.unit == _first_active(scenario["button"], scenario["mouse"]),
        "first scroll": generated and first.unit == _first_active(scenario["scroll"]),
        "step beyond the schedule": first.phase == "denoise" and first.step >= steps,
    }
    return [word for word, holds in statements.items() if holds]


def _clock(key: Key, scenario: Scenario) -> int | None:
    """The frame clock of a pass; the prompt is read before any."""
    if key.phase in ("prompt", "image"):
        return 0 if key.phase == "image" else None
    return key.unit + (scenario.get("image") is not None)


def _first_active(*controls: Tensor) -> int | None:
    """The first frame in which any of the controls [F,.] is not idle; None where that is frame 0, or none is."""
    active = torch.cat(controls, dim=1).any(dim=1)
    return int(active.int().argmax()) or None


def _extent(keys: Collection[Key], geometry: WaypointGeometry, session: Sequence[At]) -> list[str]:
    """Which of the passes that show the sites have errors, and which of the part's sites."""
    table, found = site_table(geometry), {key.at for key in keys}
    shown = {at for key in {key.site: key for key in keys}.values() for at in table.showing(key, session)}
    steps = {at.step for at in found if at.phase == "denoise"}
    every_step = {at.step for at in shown if at.phase == "denoise"}
    at_zero = {at for at in shown if at.phase in ("image", "cache")}
    names = frozenset(last_name(key.site) for key in keys)
    config = geometry.transformer
    coder = not config.is_waypoint_15 and any(key.site.startswith(("encoder.", "decoder.")) for key in keys)
    statements = {
        "Waypoint 1": not config.is_waypoint_15,
        "Waypoint 1.5": config.is_waypoint_15,
        "two clocks": config.clock_ratio > 1,
        "last step only": len(every_step) > 1 and steps == {max(every_step)} and not found & at_zero,
        "right at sigma 0": bool(steps) and any(at.phase == "cache" for at in shown) and not found & at_zero,
        "first convolution right": coder and "conv_in" not in names,
    }
    said = [word for word, holds in statements.items() if holds]
    return [*said, _SITES[names]] if names in _SITES else said


def layer_groups(names: Collection[str], geometry: WaypointGeometry) -> dict[str, list[int]]:
    """Groups of blocks by a word, of those that have sites whose last names are `names`."""
    config = geometry.transformer
    optional = {"prompt_cross_attn": config.has_prompt, "ctrl_mlpfusion": config.has_control}
    every = [
        layer
        for layer in range(config.n_layers)
        if any(name not in optional or optional[name](layer) for name in names)
    ]
    groups = {"every": every}
    if _OF_RINGS.intersection(names):
        groups["local"] = [layer for layer in every if not config.is_global(layer)]
        groups["global"] = [layer for layer in every if config.is_global(layer)]
    return groups | {"first only": every[:1], "all but the first": every[1:], "all but the first two": every[2:]}
