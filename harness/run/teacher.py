"""The teacher: the reference's latents and caches, put in the place of the candidate's after every unit.

Which sites those are, the family's table says (`taught`). The candidate's own steps, final latent and picture are
measured as they are. The pass that writes its caches then works on the reference's final latent, and what its caches
hold in the end is the reference's too. So the next unit inherits none of its errors.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Site
from waypoint_parity.harness.run.keys import At
from waypoint_parity.harness.run.sites import Kind, SiteTable
from waypoint_parity.harness.run.taps import Observation, Taps


class Teacher:
    """Watches the reference and patches a candidate's sites while its context is open.

    The taps that record a site must have been opened before, so that they see the candidate's own value.
    """

    def __init__(self, sites: Mapping[str, Site], table: SiteTable) -> None:
        """`sites` of the candidate. Raises UserError where they cannot all be patched."""
        check_teachable(sites, table)
        self._table = table
        taught = {row.name for row in table.rows if row.taught}
        # A mask is only shown where it follows from the clock.
        self._sites = {name: site for name, site in sites.items() if name in taught and site.is_patchable}
        self._taught: dict[str, Tensor] = {}
        self._taps = Taps(self._sites, lambda seen: self._taught.pop(seen.key.site, None))
        self._at: At | None = None

    def __enter__(self) -> Self:
        self._taps.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._taps.__exit__(kind, error, trace)

    def observe(self, seen: Observation) -> None:
        """Take what the reference shows, in every step just before the candidate runs it."""
        if seen.key.at != self._at:
            # What the candidate did not ask for in the step where it belonged, it is not to get in another.
            self._taught.clear()
            self._at = seen.key.at
        row = self._table.of(seen.key.site, seen.key.phase)
        if row is not None and row.taught and seen.key.site in self._sites:
            # The reference may reuse its own.
            self._taught[seen.key.site] = seen.tensor.detach().clone()


def check_teachable(sites: Mapping[str, Site], table: SiteTable) -> None:
    """Raise UserError for an implementation whose latents and caches cannot all be replaced."""
    needed = dict.fromkeys(row.name for row in table.rows if row.taught and row.kind is not Kind.MASK)
    fixed = [name for name in needed if name not in sites or not sites[name].is_patchable]
    if not needed:
        raise UserError(
            "no candidate can be taught",
            found="a family whose sites are none of them `taught`",
            expected="latents or caches that are put from the reference into the candidate",
            do="leave --teacher-forced out",
        )
    if fixed:
        shown = "shown, and cannot be replaced" if fixed[0] in sites else "not among its sites"
        raise UserError(
            "the candidate cannot be taught",
            found=f"{fixed[0]} is {shown}",
            expected=f"sites with a way back (a `restore` where they have a `layout`): {', '.join(needed)}",
            do="give the adapter those sites, or leave --teacher-forced out",
        )
