"""Keys: the identity of one observation, and what its site's name says. Nothing here needs torch."""

from typing import Literal, NamedTuple

Phase = Literal["prompt", "image", "denoise", "cache", "decode"]


class Key(NamedTuple):
    """Identity of one observation. `call` counts repeats of a site within one pass, from 0."""

    frame: int
    phase: Phase
    step: int
    site: str
    call: int = 0

    def __str__(self) -> str:
        """The name of its tensor in a file: f{frame}/{phase}{step}/{site}, #{call} behind it where call > 0."""
        call = f"#{self.call}" if self.call else ""
        return f"f{self.frame}/{self.phase}{self.step}/{self.site}{call}"


def is_input(site: str) -> bool:
    """Whether the site is an input as the implementation consumed it, rather than something it computed."""
    return site.startswith("input.")


def is_optional(site: str) -> bool:
    """Whether an implementation may do without the site: what a pass attends to, which not every one can tell."""
    return ring_part(site) == "visible"


def ring_part(site: str) -> str | None:
    """What a site of a key/value ring shows: "kv", "written" or "visible"; None for any other site."""
    return site.rpartition(".")[2] if site.startswith("kv_cache.layers.") else None


def is_mask(site: str) -> bool:
    """Whether the site tells which tokens of a ring are written or seen: right or wrong, with nothing in between."""
    return ring_part(site) in ("written", "visible")


def block_of(site: str) -> int | None:
    """The transformer block, cache layer or autoencoder stage that a site belongs to."""
    return next((int(part) for part in site.split(".") if part.isdigit()), None)
