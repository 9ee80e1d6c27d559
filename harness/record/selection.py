"""Selections: which of a session's observations are recorded. Nothing here needs torch."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.keys import Key, is_input


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a dump takes: the sites that match a glob, in some of the frames and denoise steps.

    Inputs (`input.*`) are always taken: without them nothing proves that two runs were given the same. `steps` are the
    sigma steps of `denoise`; the other phases have none and are not filtered by them. `frames` and `every` both hold:
    every Nth frame, counted from 0, of those named.
    """

    sites: tuple[str, ...] = ("*",)
    frames: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    every: int = 1

    def __post_init__(self) -> None:
        """Raise UserError for a selection that would take nothing."""
        empty = [name for name in ("sites", "frames", "steps") if getattr(self, name) == ()]
        if empty or self.every < 1:
            raise UserError(
                "nothing is selected",
                found=f"no {empty[0]}" if empty else f"every {self.every} frames",
                expected="at least one of each that is given, and every 1 or more frames",
                do="correct --sites, --frames, --steps or --every, or leave it out for everything",
            )

    def wants(self, site: str) -> bool:
        """Whether any pass can have an observation at `site` that is taken."""
        return is_input(site) or any(fnmatchcase(site, pattern) for pattern in self.sites)

    def takes(self, key: Key) -> bool:
        """Whether the observation `key` is taken."""
        if is_input(key.site):
            return True
        frame = key.frame % self.every == 0 and (self.frames is None or key.frame in self.frames)
        step = self.steps is None or key.phase != "denoise" or key.step in self.steps
        return frame and step and self.wants(key.site)


EVERYTHING = Selection()
