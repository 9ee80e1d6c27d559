"""Taps: forward hooks on an adapter's sites, which hand on what is shown, and may put another value in its place."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from waypoint_parity.harness.record.selection import EVERYTHING, Selection
from waypoint_parity.harness.run.adapter import Pass, Site
from waypoint_parity.harness.run.keys import Key

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


@dataclass(frozen=True)
class Observation:
    """A tensor seen at a site, in the official layout. It may be reused in place: a sink clones what it keeps."""

    key: Key
    sigma: float | None
    tensor: Tensor


class Sink(Protocol):
    """Takes what a recorder sees."""

    def observe(self, seen: Observation) -> None:
        """Take one observation."""
        ...

    def end_pass(self) -> None:
        """Every observation of the pass in work has been taken."""
        ...


class Recorder:
    """Watches the selected sites of one implementation while its context is open.

    Its hooks return nothing, so the implementation computes what it computes without them; detached they cost nothing.
    """

    def __init__(self, sites: Mapping[str, Site], sink: Sink, selection: Selection = EVERYTHING) -> None:
        self._sites = {name: site for name, site in sites.items() if selection.wants(name)}
        self._sink = sink
        self._selection = selection
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._calls: Counter[str] = Counter()
        self._frame = 0
        self._pass = Pass("prompt")

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

    def begin(self, frame: int, at: Pass) -> None:
        """Everything observed from now on belongs to pass `at` of `frame`; the pass before is over."""
        self._sink.end_pass()
        self._frame, self._pass = frame, at
        self._calls.clear()

    def _hook(self, name: str, site: Site) -> Callable[[nn.Module, Any, Any], None]:
        def observe(module: nn.Module, inputs: Any, output: Any) -> None:
            key = Key(self._frame, self._pass.phase, self._pass.step, name, self._calls[name])
            self._calls[name] += 1
            if self._selection.takes(key):
                tensor: Tensor = output if site.layout is None else site.layout(output)
                self._sink.observe(Observation(key, self._pass.sigma, tensor))

        return observe
