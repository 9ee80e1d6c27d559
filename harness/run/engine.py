"""The border to an implementation: what it says is checked, and what it raises is told with its place."""

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from greenlet import GreenletExit
from torch import nn

from waypoint_parity.harness.errors import EngineError, FourPartError, UserError, listed, nearest
from waypoint_parity.harness.processes import Interrupted
from waypoint_parity.harness.run.adapter import Adapter, Pass, Site
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.worker import place_of, words_of


class SideError(RuntimeError):
    """An implementation in another process failed: its own words, and the place in its code where it tells one.

    `mistake`: what it shows or announces cannot be compared.
    """

    def __init__(self, words: str, place: str, *, mistake: bool = False) -> None:
        super().__init__(words)
        self.place = place
        self.mistake = mistake


def name_of(adapter: object) -> str:
    """An adapter as the registry finds it: module or file, and class; or `name:argument`."""
    kind = adapter if isinstance(adapter, type) else type(adapter)
    if called := getattr(kind, "CALLED", ""):
        return str(called)
    return f"{kind.__module__}:{kind.__qualname__}"


@contextmanager
def engine_works(name: str, doing: Callable[[], str]) -> Iterator[None]:
    """Run what belongs to the implementation called `name`; `doing` says what it did, if it fails.

    Raises EngineError for whatever it raises, also where it would leave the process. Errors of ours, which were raised
    by what looks on, stay what they are.
    """
    try:
        yield
    except (FourPartError, Interrupted, GreenletExit):
        raise
    except BaseException as error:
        if _was_looking_on(error):
            raise
        # Of another process it is what that process says.
        said = (str(error), error.place) if isinstance(error, SideError) else (words_of(error), place_of(error))
        found = f"{said[0]} ({said[1]})" if said[1] else said[0]
        if isinstance(error, SideError) and error.mistake:
            raise UserError(
                f"{name}: what it says cannot be used, {doing()}",
                found=found,
                expected="passes and tensors as harness.run.adapter.Adapter has them",
                do="mend the adapter at this place",
            ) from error
        raise EngineError(
            f"{name} failed {doing()}",
            found=found,
            expected="a session that runs to its end",
            do="mend it at this place",
        ) from error


def looked_on(look: Callable[[Any], Any], seen: Any) -> Any:
    """Hand on what an implementation shows. What `look` raises is no failure of the implementation."""
    return look(seen)


def _was_looking_on(error: BaseException) -> bool:
    frames = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(code is looked_on.__code__ for code in frames)


def checked_description(adapter: Adapter) -> dict[str, str]:
    """What an adapter says of itself, as text. Raises UserError for what is no description, EngineError if it fails."""
    described = _said(adapter, "describe", "a dict of texts by name", "return one; an empty dict will do")
    return {str(key): str(value) for key, value in described.items()}


def checked_sites(adapter: Adapter, family: Family) -> Mapping[str, Site]:
    """The sites of an adapter. Raises UserError for one that is none, or that is misspelt, EngineError if it fails."""
    name = name_of(adapter)
    expected = "a dict of harness.run.adapter.Site by the names of the family"
    do = "return one; `waypoint-parity info CHECKPOINT` tells of the model's layers"
    sites = _said(adapter, "sites", expected, do)
    for site, place in sites.items():
        if problem := _no_site(site, place):
            raise UserError(
                f"{name}: site {site} cannot be watched",
                found=problem,
                expected="Site(module), where the output of an nn.Module is what the site shows",
                do="give the module; what is a function becomes one by a probe: an nn.Identity that it passes through",
            )
        if meant := _misspelt(site, sites, family):
            raise UserError(
                f"{name}: {family.name} has no site {site}",
                found=site,
                expected=f"perhaps {meant}",
                do="correct the name in sites()",
            )
    return sites


def _said(adapter: Adapter, method: str, expected: str, do: str) -> Mapping[Any, Any]:
    """The mapping that a method of an adapter returns. Raises UserError where it returns something else."""
    name = name_of(adapter)
    with engine_works(name, lambda: f"in {method}()"):
        said: object = getattr(adapter, method)()
    if not isinstance(said, Mapping):
        raise UserError(f"{name}: {method}() returns no dict", found=type(said).__name__, expected=expected, do=do)
    return said


def _no_site(name: Any, site: Any) -> str | None:
    """Why nothing can be watched there; None where it can."""
    if not isinstance(name, str):
        return f"a name that is {type(name).__name__}"
    if not isinstance(site, Site):
        return f"{_called(site)} in place of a Site"
    module: Any = site.module
    if not isinstance(module, nn.Module):
        return f"{_called(module)} in place of a module"
    for part in ("layout", "restore"):
        value = getattr(site, part)
        if value is not None and not callable(value):
            return f"a {part} that is {_called(value)}"
    return None


def _called(value: object) -> str:
    name = getattr(value, "__name__", "")
    return f"{type(value).__name__} {name}".strip()


def _misspelt(name: str, named: Collection[str], family: Family) -> str | None:
    """The site that must have been meant by a name that the family does not know; None where there is none."""
    if family.sites.of(name) is not None:
        return None
    known = [row.name for row in family.sites.rows if row.name not in named]
    return nearest(name, known)


def checked_pass(adapter: Adapter, announced: object, phases: Collection[str]) -> tuple[int, Pass]:
    """A pass as a session announces it. Raises UserError for anything else, and for a phase that does not exist."""
    match announced:
        case (int() as unit, Pass() as at) if unit >= 0 and _is_pass(at):
            if at.phase in phases:
                return unit, at
            found, expected = f"phase {at.phase!r}", f"one of {listed(sorted(phases))}"
        case _:
            found, expected = _told(announced), "(unit, Pass(phase, step, sigma, branches)), numbers counted from 0"
    raise UserError(
        f"{name_of(adapter)}: announces a pass that there is none of",
        found=found,
        expected=expected,
        do="correct what its session yields",
    )


def _is_pass(at: Any) -> bool:
    is_step = isinstance(at.step, int) and at.step >= 0
    is_sigma = at.sigma is None or isinstance(at.sigma, float | int)
    branches = at.branches if isinstance(at.branches, tuple) else (None,)
    return isinstance(at.phase, str) and is_step and is_sigma and all(isinstance(branch, str) for branch in branches)


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{type(value).__name__}: {text[:100]}..."


def no_session(adapter: object, found: str) -> UserError:
    """The error of a session that runs no pass."""
    return UserError(
        f"{name_of(adapter)}: runs no session",
        found=found,
        expected="an iterator that yields (unit, Pass) just before it runs each pass",
        do="make a generator of it: `yield` every pass before it runs",
    )
