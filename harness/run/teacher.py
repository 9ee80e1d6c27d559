"""The teacher: the reference's latents and caches, put in the place of the candidate's after every frame.

The candidate's own denoise steps, final latent and picture are measured as they are. Its cache pass then works on the
reference's final latent (what `patchify` makes of it), and what its caches hold in the end is the reference's too. So
the next frame inherits none of its errors.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import Site
from waypoint_parity.harness.run.keys import ring_part
from waypoint_parity.harness.run.taps import Observation, Patcher, is_patchable

_LATENT = "patchify"
_PHASES = ("cache", "image")


class Teacher:
    """Watches the reference and patches a candidate's sites while its context is open.

    A site's recorder must have been attached before, so that it sees the candidate's own value.
    """

    def __init__(self, sites: Mapping[str, Site], layers: int) -> None:
        """`sites` of the candidate, which has `layers` caches. Raises UserError where they cannot all be patched."""
        check_teachable(sites, layers)
        # Which tokens are written is only shown where it follows from the clock.
        self._sites = {
            name: site
            for name, site in sites.items()
            if (name == _LATENT or ring_part(name) in ("kv", "written")) and is_patchable(site)
        }
        self._taught: dict[str, Tensor] = {}
        self._patcher = Patcher(self._sites, lambda key, value: self._taught.pop(key.site, None))
        self._pass: tuple[int, str, int] | None = None

    def __enter__(self) -> Self:
        self._patcher.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patcher.__exit__(kind, error, trace)

    def observe(self, seen: Observation) -> None:
        """Take what the reference shows, in every pass just before the candidate runs it."""
        at = (seen.key.frame, seen.key.phase, seen.key.step)
        if at != self._pass:
            # What the candidate did not ask for in the pass where it belonged, it is not to get in another.
            self._taught.clear()
            self._pass = at
        if seen.key.phase in _PHASES and seen.key.site in self._sites:
            # The reference may reuse its own.
            self._taught[seen.key.site] = seen.tensor.detach().clone()


def check_teachable(sites: Mapping[str, Site], layers: int) -> None:
    """Raise UserError for an implementation whose latents and caches cannot all be replaced."""
    needed = [_LATENT, *(f"kv_cache.layers.{layer}.kv" for layer in range(layers))]
    fixed = [name for name in needed if name not in sites or not is_patchable(sites[name])]
    if fixed:
        raise UserError(
            "the candidate cannot be taught",
            found=f"{fixed[0]} {'is shown, and cannot be replaced' if fixed[0] in sites else 'is not among its sites'}",
            expected="patchify and the kv of every layer as sites, with a `restore` where they have a `layout`",
            do="give the adapter those sites, or leave --teacher-forced out",
        )
