"""Signature: where, when and how the errors of one part show, in fixed words, from the measured keys and errors alone.

The words are statements with a truth of their own; what they may mean is said in harness.explain.blame.explanations.
"""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.explain.blame.pace import At
from waypoint_parity.harness.explain.blame.result import Signature
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.sites import session_passes
from waypoint_parity.harness.run.keys import Key, Phase, block_of, is_mask
from waypoint_parity.harness.run.scenario import Scenario

# Of the first faulty observation. Frames are numbered as generated; the clock counts a seed image as its frame 0.
Onset = Literal[
    "prompt",
    "image",
    "frame 0",
    "frame 1",
    "clock 0",
    "clock 1",
    "first pass",
    "cache pass",
    "decode",
    "local ring full",
    "dilated ring full",
    "first skipped frame",
    "first control",
    "first scroll",
    "step beyond the schedule",
    "no distance",
]
# Of all faulty observations together: passes, sites, size.
Extent = Literal[
    "every pass",
    "from the second step on",
    "last step only",
    "right at sigma 0",
    "rounding-sized",
    "queries only",
    "keys only",
    "values only",
    "keys and values",
    "gates only",
    "buttons only",
    "mouse only",
    "scroll only",
    "mask only",
    "visibility only",
    "first convolution only",
    "first convolution right",
    "last convolution only",
]
# Of the blocks that have the part; any others are listed, as in "blocks 1, 3".
Layers = Literal["none", "every", "local", "global", "all but the first", "all but the first two", "first only"]
Norm = Literal["kept", "changed", "unknown"]
Course = Literal["steady", "grows", "fades", "unknown"]
# Control experiments are made by the search; the words for what they show stand here with the others.
Control = Literal[
    "only with padding", "unchanged by padding", "only after the first frame", "without local error at frame 0"
]

# |log norm ratio| by log(1 + distance) is 1 where a value is only scaled up and 0 where it is turned, permuted or
# replaced by one of the same norm. Noise of half a value's size, at right angles to it, has 0.27.
_NORM_KEPT = 0.25
# One rounding to bf16 is 2e-3, a site computed otherwise in bf16 up to 1.3e-2 (fixtures/golden/bf16).
_ROUNDING = 2e-2
# Local errors inherit nothing, so the same fault varies by the values of a frame alone: less than this.
_COURSE = 1.5

_SITES: Mapping[frozenset[str], Extent] = {
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
# The phases in which a site is shown; the others are those of the transformer.
_PHASES: tuple[tuple[str, tuple[Phase, ...]], ...] = (
    (r"input\.prompt_.*", ("prompt",)),
    (r"input\.image|encoder\..*", ("image",)),
    (r"decoder\..*|frame", ("decode",)),
    (r"input\.noise|velocity", ("denoise",)),
    (r"input\.(button|mouse|scroll)", ("image", "denoise")),
    (r"kv_cache\..*\.(kv|written)", ("image", "cache")),
)
_TRANSFORMER: tuple[Phase, ...] = ("image", "denoise", "cache")
_ONCE_A_FRAME = r"input\.(button|mouse|scroll|noise)"
# Sites at which the two kinds of rings can make a difference.
_OF_RINGS = frozenset({"q_rope", "k_rope", "attn", "kv", "written", "visible"})


def signature(faults: Mapping[Key, Error], config: TransformerConfig, scenario: Scenario) -> Signature:
    """How one part's local errors show: `faults` are those beyond their bounds, in the order of execution.

    Without any there is nothing to say: no onset, norm and course unknown.
    """
    words: list[str] = []
    if faults:
        words += _onset(next(iter(faults.items())), config, scenario)
        words += _extent(faults.keys(), config, scenario)
        words += ["rounding-sized"] if _is_rounding_sized(faults) else []
    return Signature(onset=words, layers=_layers(faults.keys(), config), norm=_norm(faults), course=_course(faults))


def _onset(observed: tuple[Key, Error], config: TransformerConfig, scenario: Scenario) -> list[Onset]:
    """What is true of the first faulty observation."""
    first, error = observed
    generated = first.phase not in ("prompt", "image")
    clock = _clock(first, scenario)
    statements: dict[Onset, bool] = {
        "prompt": first.phase == "prompt",
        "image": first.phase == "image",
        "frame 0": generated and first.frame == 0,
        "frame 1": generated and first.frame == 1,
        "clock 0": clock == 0,
        "clock 1": clock == 1,
        "first pass": first[:3] == next(iter(_shown(first, config, scenario)), None),
        "cache pass": first.phase == "cache",
        "decode": first.phase == "decode",
        "local ring full": clock == config.local_window,
        "dilated ring full": clock == config.global_window,
        "first skipped frame": clock == 1 and config.global_pinned_dilation > 1,
        "first control": generated and first.frame == _first_active(scenario.button, scenario.mouse),
        "first scroll": generated and first.frame == _first_active(scenario.scroll),
        "step beyond the schedule": first.phase == "denoise" and first.step >= _steps(config, scenario),
        "no distance": error.note is not None,
    }
    return [word for word, holds in statements.items() if holds]


def _clock(key: Key, scenario: Scenario) -> int | None:
    """The frame clock of a pass; the prompt is read before any."""
    if key.phase in ("prompt", "image"):
        return 0 if key.phase == "image" else None
    return key.frame + (scenario.image is not None)


def _first_active(*controls: Tensor) -> int | None:
    """The first frame in which any of the controls [F,.] is not idle; None where that is frame 0, or none is."""
    active = torch.cat(controls, dim=1).any(dim=1)
    return int(active.int().argmax()) or None


def _steps(config: TransformerConfig, scenario: Scenario) -> int:
    return len(scenario.schedule(config)) - 1


def _extent(keys: Collection[Key], config: TransformerConfig, scenario: Scenario) -> list[Extent]:
    """Which of the passes that show the sites have errors, and which of the part's sites."""
    found = {key[:3] for key in keys}
    shown = {at for key in {key.site: key for key in keys}.values() for at in _shown(key, config, scenario)}
    steps = {step for _, phase, step in found if phase == "denoise"}
    phases = {phase for _, phase, _ in shown}
    every_step = {step for _, phase, step in shown if phase == "denoise"}
    at_zero = {at for at in shown if at[1] in ("image", "cache")}
    names = frozenset(_last_name(key.site) for key in keys)
    coder = any(key.site.startswith(("encoder.", "decoder.")) for key in keys)
    statements: dict[Extent, bool] = {
        "every pass": found >= shown,
        "from the second step on": bool(steps) and 0 not in steps,
        "last step only": len(every_step) > 1 and steps == {max(every_step)} and not found & at_zero,
        "right at sigma 0": bool(steps) and "cache" in phases and not found & at_zero,
        "first convolution right": coder and "conv_in" not in names,
    }
    words = [word for word, holds in statements.items() if holds]
    return [*words, _SITES[names]] if names in _SITES else words


def _shown(key: Key, config: TransformerConfig, scenario: Scenario) -> list[At]:
    """The passes of a session that show the site of `key`, in order."""
    prompt, image = scenario.prompt is not None, scenario.image is not None
    passes = session_passes(_steps(config, scenario), scenario.frames, prompt=prompt, image=image)
    phases = next((phases for name, phases in _PHASES if re.fullmatch(name, key.site)), _TRANSFORMER)
    # The latent of an image and those that are denoised are different parts.
    phases = (key.phase,) if key.site == "latent" else phases
    once = re.fullmatch(_ONCE_A_FRAME, key.site)
    return [(frame, at.phase, at.step) for frame, at in passes if at.phase in phases and not (once and at.step)]


def _last_name(site: str) -> str:
    """The last part of a site's name that is no number."""
    return [part for part in site.split(".") if not part.isdigit()][-1]


def _is_rounding_sized(faults: Mapping[Key, Error]) -> bool:
    errors = [error.rel_l2 for key, error in faults.items() if not is_mask(key.site)]
    return bool(errors) and median(errors) <= _ROUNDING


def _layers(keys: Collection[Key], config: TransformerConfig) -> str:
    """Which blocks have errors, of those that have the part."""
    keys = [key for key in keys if key.site.startswith(("transformer.", "kv_cache."))]
    names = {_last_name(key.site) for key in keys}
    found = sorted({block for key in keys if (block := block_of(key.site)) is not None})
    if not found:
        return "none"
    every = [layer for layer in range(config.n_layers) if any(_has(layer, name, config) for name in names)]
    patterns: dict[Layers, list[int]] = {"every": every}
    if names & _OF_RINGS:
        patterns["local"] = [layer for layer in every if not config.is_global(layer)]
        patterns["global"] = [layer for layer in every if config.is_global(layer)]
    patterns |= {"first only": every[:1], "all but the first": every[1:], "all but the first two": every[2:]}
    listed = f"block{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"
    return next((word for word, layers in patterns.items() if layers == found), listed)


def _has(layer: int, name: str, config: TransformerConfig) -> bool:
    """Whether a block has a site of this name."""
    optional = {"prompt_cross_attn": config.has_prompt, "ctrl_mlpfusion": config.has_control}
    return name not in optional or optional[name](layer)


def _norm(faults: Mapping[Key, Error]) -> Norm:
    """Whether the values keep their norm, though not their direction."""
    changes = [
        error.log_norm / math.log1p(error.rel_l2)
        for key, error in faults.items()
        if error.norm_ratio is not None and error.rel_l2 > 0 and not is_mask(key.site)
    ]
    if not changes:
        return "unknown"
    return "kept" if median(changes) < _NORM_KEPT else "changed"


def _course(faults: Mapping[Key, Error]) -> Course:
    """How the errors of the same observation change from the first frame that has it to the last."""
    recurring: dict[Key, list[float]] = defaultdict(list)
    for key, error in faults.items():
        if 0 < error.rel_l2 < math.inf:
            recurring[key._replace(frame=0)].append(error.rel_l2)
    changes = [errors[-1] / errors[0] for errors in recurring.values() if len(errors) > 1]
    if not changes:
        return "unknown"
    change = median(changes)
    return "grows" if change > _COURSE else "fades" if change < 1 / _COURSE else "steady"
