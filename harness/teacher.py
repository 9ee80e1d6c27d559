"""The teacher: the reference's latents and caches, put in the place of the candidate's after every frame.

The candidate's own denoise steps, final latent and picture are measured as they are. Its cache pass then works on the
reference's final latent (what `patchify` makes of it), and what its caches hold in the end is the reference's too. So
the next frame inherits none of its errors.
"""

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from harness.adapter import Site
from harness.errors import UserError
from harness.keys import ring_part
from harness.patcher import is_patchable, replacement
from harness.recorder import Observation

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
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._taught: dict[str, Tensor] = {}
        self._pass: tuple[int, str, int] | None = None

    def __enter__(self) -> Self:
        for name, site in self._sites.items():
            self._handles.append(site.module.register_forward_hook(self._hook(name, site)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

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

    def _hook(self, name: str, site: Site) -> Callable[[nn.Module, Any, Any], Any]:
        def teach(module: nn.Module, inputs: Any, output: Any) -> Any:
            right = self._taught.pop(name, None)
            return None if right is None else replacement(site, right, output)

        return teach


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
