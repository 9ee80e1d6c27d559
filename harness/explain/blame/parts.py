"""Parts: what can be to blame, and be exchanged. Every site belongs to one part, every part to one family."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from waypoint_parity.harness.run.keys import Key, Phase

_BLOCK = r"transformer\.blocks\.\d+"
_RING = r"kv_cache\.layers\.\d+"


@dataclass(frozen=True)
class Part:
    """A part of the model, or an input: the sites at which its errors are seen, as a regular expression of names.

    `phase` limits them to one phase. `carriers`: sites through which a part acts that itself cannot be exchanged, each
    with the phase, or None for all; they are exchanged with it.
    """

    name: str
    family: str
    sites: str
    phase: Phase | None = None
    carriers: tuple[tuple[str, Phase | None], ...] = ()

    def shows(self, key: Key) -> bool:
        """Whether the part's own errors are seen at `key`."""
        return self.phase in (None, key.phase) and re.fullmatch(self.sites, key.site) is not None

    def carries(self, key: Key) -> bool:
        """Whether `key` is exchanged with the part though its errors are another part's."""
        return any(phase in (None, key.phase) and re.fullmatch(sites, key.site) for sites, phase in self.carriers)


# Where a frame's final latent is handed on: the only way to exchange a sampler that takes another number of steps.
_HANDED_ON: tuple[tuple[str, Phase | None], ...] = (("patchify", "cache"), (r"decoder\.conv_in", "decode"))

# In execution order.
PARTS = (
    Part("input.prompt", "input", r"input\.prompt_(emb|pad_mask)"),
    Part("input.image", "input", r"input\.image"),
    Part("encoder", "autoencoder", r"encoder\..*"),
    Part("image latent", "autoencoder", "latent", "image"),
    Part("input.controls", "input", r"input\.(button|mouse|scroll)"),
    Part("input.noise", "input", r"input\.noise"),
    Part("input.schedule", "input", r"input\.sigma", carriers=(("latent", "denoise"), *_HANDED_ON)),
    Part("input.clock", "input", r"input\.timestamp"),
    Part("noise conditioner", "conditioning", "denoise_step_emb"),
    Part("control embedding", "control", "ctrl_emb"),
    Part("patchify", "head", "patchify"),
    Part("conditioning heads", "conditioning", rf"{_BLOCK}\.cond_head"),
    Part("projections", "attention", rf"{_BLOCK}\.attn\.(q|k|v|gate)_proj"),
    Part("rotation", "rope", rf"{_BLOCK}\.attn\.(q|k)_rope"),
    # What a pass sees of a ring may be shown and not patched: it acts through the attention.
    Part("cache", "cache", rf"{_RING}\.(kv|written|visible)", carriers=((rf"{_BLOCK}\.attn", None),)),
    # With a value residual the ring stores what the attention mixed.
    Part("attention", "attention", rf"{_BLOCK}\.attn", carriers=((rf"{_RING}\.kv", None),)),
    Part("prompt attention", "prompt", rf"{_BLOCK}\.prompt_cross_attn"),
    Part("control fusion", "control", rf"{_BLOCK}\.ctrl_mlpfusion"),
    Part("mlp", "mlp", rf"{_BLOCK}\.mlp"),
    Part("residual", "mlp", _BLOCK),
    Part("output norm", "head", "out_norm"),
    Part("velocity", "head", "velocity"),
    Part("sampler", "sampler", "latent", "denoise"),
    Part("decoder", "autoencoder", r"decoder\..*"),
    Part("picture", "autoencoder", "frame"),
)
FAMILIES = tuple(dict.fromkeys(part.family for part in PARTS))


def is_handed_on(key: Key) -> bool:
    """Whether the value at `key` is made of the latent that its frame's denoise steps ended with."""
    return any(phase == key.phase and re.fullmatch(sites, key.site) for sites, phase in _HANDED_ON)


def part_of(key: Key) -> Part:
    """The part whose errors are seen at `key`. Raises ValueError for a site that is none."""
    for part in PARTS:
        if part.shows(key):
            return part
    raise ValueError(f"{key.site} in a {key.phase} pass is no site of any part")


def parts_at(sites: Iterable[str]) -> list[Part]:
    """The parts whose errors are seen at any of `sites` in any phase, in the order of execution."""
    named = list(sites)
    return [part for part in PARTS if any(re.fullmatch(part.sites, site) for site in named)]


def part_named(name: str) -> Part:
    """The part of this name. Raises ValueError where there is none."""
    for part in PARTS:
        if part.name == name:
            return part
    raise ValueError(f"no part is called {name}; there are {', '.join(part.name for part in PARTS)}")
