"""Selections: which of a session's observations are recorded. Nothing here needs torch."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.keys import Key, is_input


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a dump takes: the sites that match a glob, in some of the units and steps.

    Inputs (`input.*`) are always taken: without them nothing proves that two runs were given the same. `steps`
    filters the phases in `stepped`. `units` and `every` both hold: every Nth unit, counted from 0, of those named.
    """

    sites: tuple[str, ...] = ("*",)
    units: tuple[int, ...] | None = None
    steps: tuple[int, ...] | None = None
    # The phases that have several steps; where none is named, `steps` filters every phase.
    stepped: tuple[str, ...] = ()
    every: int = 1

    def __post_init__(self) -> None:
        """Raise UserError for a selection that would take nothing."""
        empty = [name for name in ("sites", "units", "steps") if getattr(self, name) == ()]
        if empty or self.every < 1:
            raise UserError(
                "nothing is selected",
                found=f"no {empty[0]}" if empty else f"every {self.every} units",
                expected="at least one of each that is given, and every 1 or more units",
                do="correct --sites, --frames, --steps or --every, or leave it out for everything",
            )

    def wants(self, site: str) -> bool:
        """Whether any pass can have an observation at `site` that is taken."""
        return is_input(site) or any(fnmatchcase(site, pattern) for pattern in self.sites)

    def takes(self, key: Key) -> bool:
        """Whether the observation `key` is taken."""
        if is_input(key.site):
            return True
        unit = key.unit % self.every == 0 and (self.units is None or key.unit in self.units)
        step = self.steps is None or key.step in self.steps or (bool(self.stepped) and key.phase not in self.stepped)
        return unit and step and self.wants(key.site)


EVERYTHING = Selection()
