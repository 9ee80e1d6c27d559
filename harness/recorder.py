"""The recorder: forward hooks on an adapter's sites, handing every observation to a sink."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from harness.adapter import Pass, Site
from harness.keys import Key
from harness.selection import EVERYTHING, Selection


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
