"""The patcher: forward hooks on an adapter's sites that may put another value in the place of the one shown."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from harness.adapter import Pass, Site
from harness.keys import Key

# Takes a value in the official layout; what it returns, in that layout, takes its place. None leaves it.
Patch = Callable[[Key, Tensor], Tensor | None]


class Patcher:
    """Hands what the sites of one implementation show to `patch`, pass by pass, while its context is open.

    Hooks attached before see the implementation's own values, hooks attached after see the replacements. `refused`:
    sites that did not show a value once it was put in their place, such as a ring that has no slot for it.
    """

    def __init__(self, sites: Mapping[str, Site], patch: Patch) -> None:
        # A module may be the site of several layers at once: all of them show what it returned.
        self._modules: dict[nn.Module, dict[str, Site]] = defaultdict(dict)
        for name, site in sites.items():
            self._modules[site.module][name] = site
        self._patch = patch
        self._attached = ExitStack()
        self._calls: Counter[str] = Counter()
        self._frame, self._pass = 0, Pass("prompt")
        self.refused: set[str] = set()

    def __enter__(self) -> Self:
        for module, sites in self._modules.items():
            self._attached.callback(module.register_forward_hook(self._hook(sites)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()

    def begin(self, frame: int, at: Pass) -> None:
        """Everything shown from now on belongs to pass `at` of `frame`."""
        self._frame, self._pass = frame, at
        self._calls.clear()

    def _hook(self, sites: Mapping[str, Site]) -> Callable[[nn.Module, Any, Any], Any]:
        def patch(module: nn.Module, inputs: Any, output: Any) -> Any:
            shown = {name: output if site.layout is None else site.layout(output) for name, site in sites.items()}
            for name, value in shown.items():
                given = self._patch(self._key(name), value)
                if given is not None:
                    output = self._replaced(name, sites[name], given, output)
            return output

        return patch

    def _replaced(self, name: str, site: Site, given: Tensor, output: Any) -> Any:
        """The output that goes on, `given` in its place where that is possible."""
        if not is_patchable(site):
            self.refused.add(name)
            return output
        replaced = replacement(site, given, output)
        if site.layout is not None and not _shows(site.layout(replaced), given):
            self.refused.add(name)
        return replaced

    def _key(self, name: str) -> Key:
        call = self._calls[name]
        self._calls[name] += 1
        return Key(self._frame, self._pass.phase, self._pass.step, name, call)


def is_patchable(site: Site) -> bool:
    """Whether another value can be put in the place of the one that the site shows."""
    return site.layout is None or site.restore is not None


def replacement(site: Site, official: Tensor, output: Any) -> Any:
    """What an implementation is to go on with so that its `site`, whose `output` is given, shows `official`."""
    return official.to(output) if site.restore is None else site.restore(official, output)


def _shows(shown: Tensor, given: Tensor) -> bool:
    if shown.shape != given.shape:
        return False
    given = given.to(shown)
    return bool(((shown == given) | (shown.isnan() & given.isnan())).all())
