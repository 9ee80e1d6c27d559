"""Taps: forward hooks on an adapter's sites, which hand on what is shown, and may put another value in its place."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.run.adapter import Adapter, Pass, Shown, Site
from waypoint_parity.harness.run.engine import looked_on
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import At, Key
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.worker import apart

# What is a number or many of them, and no tensor.
NUMBERS = np.ndarray | np.generic | bool | int | float | complex


@dataclass(frozen=True)
class Observation:
    """A tensor seen at a site, in the official layout. It may be reused in place: who keeps it clones it.

    Complex numbers are pairs of real ones, in a last axis of their own. `exact`: what would have come out without any
    rounding, fp64, where that is known; `lost` says why it is not exact after all. `spread`: how far disturbed lanes
    are from it, the root mean square of their relative L2 distances, where there are any.
    """

    key: Key
    sigma: float | None
    tensor: Tensor
    exact: Tensor | None = None
    lost: str | None = None
    spread: float | None = None

    def kept(self) -> Self:
        """The same with tensors of its own."""
        exact = None if self.exact is None else self.exact.detach().clone()
        return replace(self, tensor=self.tensor.detach().clone(), exact=exact)


class Sink(Protocol):
    """Takes what is recorded."""

    def observe(self, seen: Observation) -> None:
        """Take one observation."""
        ...

    def end_pass(self) -> None:
        """Every observation of the pass in work has been taken."""
        ...


class Selecting(Protocol):
    """Says what is handed on."""

    def wants(self, site: str) -> bool:
        """Whether any pass can have an observation at `site` that is taken."""
        ...

    def takes(self, key: Key) -> bool:
        """Whether the observation `key` is taken."""
        ...


# What it returns, in the official layout, takes the place of what was seen. None leaves that.
Observer = Callable[[Observation], Tensor | None]


class Taps:
    """Hands what the selected sites of one implementation show to `observe`, pass by pass, while its context is open.

    Taps opened before see the implementation's own values, those opened after see the replacements. Closed they cost
    nothing; as long as `observe` returns nothing, the implementation computes what it computes without them. `last` was
    shown last. `refused`: sites that did not show a value once it was put in their place, such as a ring that has no
    slot for it.

    A hook raises UserError where a site shows nothing that can be compared.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        observe: Observer,
        *,
        ended: Callable[[], None] | None = None,
        selection: Selecting | None = None,
        counts: Callable[[Key], Tensor | None] | None = None,
        replaces: bool = True,
    ) -> None:
        """`ended` is called when a pass is over. `counts`: which positions count; others are shown as 0.

        What `replaces` nothing need not be waited for: its hooks say so to an implementation in another process.
        """
        # A module may be the site of several layers at once: all of them show what it returned.
        self._modules: dict[nn.Module, dict[str, Site]] = defaultdict(dict)
        for name, site in sites.items():
            if selection is None or selection.wants(name):
                self._modules[site.module][name] = site
        self._observe = observe
        self._ended = ended
        self._selection = selection
        self._counts = counts
        self._replaces = replaces
        self._attached = ExitStack()
        self._calls: Counter[tuple[str, str]] = Counter()
        self._unit, self._pass, self._at = 0, Pass(""), At(-1, "", 0)
        self.last: Key | None = None
        self.refused: set[str] = set()

    def __enter__(self) -> Self:
        for module, sites in self._modules.items():
            self._attached.callback(module.register_forward_hook(self._hook(sites)).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()

    def begin(self, unit: int, at: Pass) -> None:
        """Everything shown from now on belongs to pass `at` of `unit`; the pass before is over."""
        if self._ended is not None:
            with apart():
                self._ended()
        if at.at(unit) != self._at:
            self._calls.clear()
        self._unit, self._pass, self._at = unit, at, at.at(unit)

    def _hook(self, sites: Mapping[str, Site]) -> Callable[[nn.Module, Any, Any], Any]:
        def tap(module: nn.Module, inputs: Any, output: Any) -> Any:
            shown = {name: self._shown(name, site, output, inputs) for name, site in sites.items()}
            changed = None
            for name, value in shown.items():
                given = self._handed_on(name, value)
                if given is not None:
                    changed = self._replaced(name, sites[name], given, output if changed is None else changed, inputs)
            return changed

        tap.replaces = self._replaces  # type: ignore[attr-defined]
        return tap

    def _shown(self, name: str, site: Site, output: Any, inputs: Any) -> Shown:
        """What a site shows. Raises UserError where it shows no tensors."""
        try:
            shown: Any = site.shown(output, inputs)
        except UserError:
            raise
        except Exception as error:
            raise self._unlike(name, f"a layout that fails of it: {type(error).__name__}: {error}", output) from error
        many = site.layout is not None
        if many and isinstance(shown, Mapping):
            if unknown := [str(branch) for branch in shown if branch not in self._pass.branches]:
                raise self._unlike(name, f"the branches {listed(unknown)} in a pass that evaluates none of them", shown)
            return {branch: self._plain(name, each, shown) for branch, each in shown.items()}
        if many and isinstance(shown, list | tuple) and shown and not hasattr(shown, "_fields"):
            return [self._plain(name, each, shown) for each in shown]
        return self._plain(name, shown, shown)

    def _plain(self, name: str, value: Any, shown: Any) -> Tensor:
        try:
            return dense(value)
        except ValueError as error:
            raise self._unlike(name, str(error), shown) from None

    def _unlike(self, name: str, found: str, shown: Any) -> UserError:
        where = f"unit {self._unit}, {self._pass.phase} step {self._pass.step}"
        return UserError(
            f"site {name} shows nothing that can be compared, in {where}",
            found=f"{found} ({structure(shown)})",
            expected="a dense tensor; of a layout also a dict of them by branch, or a list of them by call",
            do="give the site a layout, such as layout=lambda output, inputs: output[0]",
        )

    def _handed_on(self, name: str, value: Shown) -> Shown | None:
        """Hand on what a site shows. Returns what takes its place, in the same form; None where nothing does."""
        tensors = list(self._branches(value))
        given = [self._observed(name, branch, tensor) for branch, tensor in tensors]
        if all(instead is None for instead in given):
            return None
        put = [own if instead is None else instead for (_, own), instead in zip(tensors, given, strict=True)]
        if isinstance(value, Mapping):
            return dict(zip(value, put, strict=True))
        return put[0] if isinstance(value, Tensor) else put

    def _observed(self, name: str, branch: str, tensor: Tensor) -> Tensor | None:
        """Hand on one tensor, if it is selected. Returns what takes its place, if anything."""
        call = self._calls[name, branch]
        self._calls[name, branch] += 1
        key = Key(self._unit, self._pass.phase, self._pass.step, name, branch, call)
        if self._selection is not None and not self._selection.takes(key):
            return None
        seen = Observation(key, self._pass.sigma, as_real(self._counted(key, tensor)))
        self.last = key
        # What is done with what a site shows is not the implementation's: no shadow follows it.
        with apart():
            given: Tensor | None = looked_on(self._observe, seen)
        if given is not None and given.shape != seen.tensor.shape:
            self.refused.add(name)
            return None
        return torch.view_as_complex(given.contiguous()) if given is not None and tensor.is_complex() else given

    def _branches(self, value: Shown) -> Iterator[tuple[str, Tensor]]:
        """(branch, tensor). One tensor belongs to the only branch of its pass, or else to all of them in common."""
        if isinstance(value, Mapping):
            yield from value.items()
            return
        branch = self._pass.branches[0] if len(self._pass.branches) == 1 else ""
        yield from ((branch, tensor) for tensor in ([value] if isinstance(value, Tensor) else value))

    def _counted(self, key: Key, tensor: Tensor) -> Tensor:
        return tensor if self._counts is None else counted(tensor, self._counts(key))

    def _replaced(self, name: str, site: Site, given: Shown, output: Any, inputs: Any) -> Any:
        """The output that goes on, `given` in its place where that is possible."""
        if not site.is_patchable or (site.layout is None and not isinstance(output, Tensor)):
            self.refused.add(name)
            return output
        try:
            replaced = site.replacement(given, output)
        except Exception:  # such as a ring of another size: what the site makes of a value is the implementation's
            self.refused.add(name)
            return output
        if site.layout is not None and not self._shows(site.layout(replaced, inputs), given):
            self.refused.add(name)
        return replaced

    def _shows(self, shown: Shown, given: Shown) -> bool:
        """Whether a site shows what was given in the place of its value."""
        here, wanted = list(self._branches(shown)), list(self._branches(given))
        same = [branch for branch, _ in here] == [branch for branch, _ in wanted]
        with apart():
            return same and all(_equal(ours, theirs) for (_, ours), (_, theirs) in zip(here, wanted, strict=True))


def structure(value: Any) -> str:
    """What a value is made of, in words: "tuple of Tensor, None"."""
    if isinstance(value, Tensor):
        return f"{type(value).__name__} {value.dtype} {'nested' if value.is_nested else list(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} of {listed([f'{key}: {_kind(each)}' for key, each in value.items()])}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {listed([_kind(each) for each in value])}"
    return _kind(value)


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def counted(tensor: Tensor, which: Tensor | None) -> Tensor:
    """The tensor with 0 at positions that do not count; `which` is None where all do.

    A tensor of another shape, such as a ring of another size, is left as it is.
    """
    if which is None or not _fits(which.shape, tensor.shape):
        return tensor
    return torch.where(which.to(tensor.device), tensor, torch.zeros_like(tensor))


def _fits(shape: torch.Size, other: torch.Size) -> bool:
    """Whether a tensor of `shape` can be broadcast to `other`."""
    axes = zip(reversed(shape), reversed(other), strict=False)
    return len(shape) <= len(other) and all(size in (1, wanted) for size, wanted in axes)


def recording(
    sites: Mapping[str, Site],
    sink: Sink,
    selection: Selecting | None = None,
    counts: Callable[[Key], Tensor | None] | None = None,
) -> Taps:
    """Taps that hand everything to a sink, and change nothing."""
    return Taps(sites, sink.observe, ended=sink.end_pass, selection=selection, counts=counts, replaces=False)


def one_by_one(pixels: Tensor) -> npt.NDArray[np.uint8]:
    """The pictures [n,H,W,3] of a tensor [n,H,W,3] or [H,W,3] uint8; its own memory where it lies on the CPU."""
    return pixels.detach().cpu().numpy().reshape(-1, *pixels.shape[-3:])


@contextmanager
def decoded_pictures(adapter: Adapter, family: Family) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """The pictures [H,W,3] uint8 that `adapter` shows while the context is open, as it goes on with them."""
    pictures: list[npt.NDArray[np.uint8]] = []
    sites = {name: site for name, site in adapter.sites().items() if family.sites.kind(name) is Kind.PICTURE}

    def keep(seen: Observation) -> None:
        pictures.extend(picture.copy() for picture in one_by_one(seen.tensor))

    with Taps(sites, keep, replaces=False):
        yield pictures


def dense(value: Any) -> Tensor:
    """A value as a dense tensor of numbers, which is `value` itself where it is one.

    Raises ValueError, in which stands what was found, where it is none.
    """
    if isinstance(value, NUMBERS):
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise ValueError(f"an array of {array.dtype}")
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
    if not isinstance(value, Tensor):
        raise ValueError("no tensor")
    if value.is_meta or value.is_nested:
        raise ValueError("a tensor without values" if value.is_meta else "a nested tensor")
    if value.is_quantized:
        return value.dequantize()
    return value if value.layout is torch.strided else value.to_dense()


def as_real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, in a last axis of their own; any other tensor as it is."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()


def _equal(shown: Tensor, given: Tensor) -> bool:
    if shown.shape != given.shape:
        return False
    given = given.to(shown)
    return bool(((shown == given) | (shown.isnan() & given.isnan())).all())
