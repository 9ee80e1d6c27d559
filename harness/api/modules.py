"""Two modules of torch, compared submodule by submodule, without a family, a checkpoint or an adapter."""

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from waypoint_parity.harness.api.matching import (
    WHOLE,
    Leaf,
    Rules,
    named_modules,
    put,
    renames,
    sites_of,
    texts_of,
    uncompared,
)
from waypoint_parity.harness.api.values import precision_of
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadow import Shadow
from waypoint_parity.harness.compare.exact.shadowed import Shadowed
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.judge.comparison import LIVE, Comparison, SiteResult, Verdict, contradicted
from waypoint_parity.harness.judge.growth import LANES as GROWTH_LANES
from waypoint_parity.harness.judge.growth import growth
from waypoint_parity.harness.judge.judgement import AS_REFERENCE, PRECISIONS, Bounds, Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.judge.precision import LANES, fed_run
from waypoint_parity.harness.judge.table import incomparable
from waypoint_parity.harness.run.adapter import Pass, Site
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.engine import engine_works
from waypoint_parity.harness.run.family import Family, Unknown
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sites import SiteRow, SiteTable
from waypoint_parity.harness.run.worker import apart, exact_arithmetic

# What `accept_inputs` may hold here.
WEIGHTS = "weights"
_PHASE = "forward"
_MOST_NAMED = 8


class Call:
    """The arguments of one call, where a tuple or a dict alone does not say them.

    Example:
        ```python
        wp.module_parity(reference, candidate, wp.Call(x, mask=mask))
        ```
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = kwargs


def module_parity(
    reference: nn.Module,
    candidate: nn.Module,
    inputs: Any,
    *,
    rename: Rules = None,
    allow_missing: Sequence[str] = (),
    accept_inputs: Sequence[str] = (),
    precision: str = AS_REFERENCE,
    tolerance: float | None = None,
    exact: bool = True,
) -> Comparison:
    r"""Run two modules on the same inputs, and name the first submodule whose output differs.

    Weights are asked for first: where parameters of the same name have other values, the verdict is INCOMPARABLE and
    `first.site` is the parameter. Then every output of every pair of submodules is compared, in the order in which the
    reference computes them: by exact values (the same mathematics?) and by what the reference makes of the candidate's
    own values (as precise as rounding allows?). Both modules stay as they are: copies are run, which share parameters.

    Args:
        reference: The module that is right, in evaluation mode.
        candidate: The module that is judged, in evaluation mode. Inputs go to the device of its parameters.
        inputs: A tensor, a tuple of positional arguments, a dict of keyword arguments, or `Call(*args, **kwargs)`.
            A list of these is several calls one after the other; each is a unit, counted from 0.
        rename: Rules that make the reference's names of the candidate's: `{regex: replacement}`, a list of such pairs,
            or of texts `regex=replacement`. Each is applied to what the one before it made. A module whose name becomes
            empty is left out.
        allow_missing: Sites that one side may lack, as globs such as `*.dropout`.
        accept_inputs: `("weights",)` compares the layers though parameters differ.
        precision: What the candidate may cost on purpose: as-reference, tf32, fp16 or bf16.
        tolerance: The largest relative L2 error where no exact value is known; if not given, that of the dtype.
        exact: Follow both sides in fp64. Without it, errors are judged by the tolerance alone, ten times sooner.

    Returns:
        The comparison. It is true where parity holds. Its notes list the modules that were not compared.

    Raises:
        UserError: for inputs that are none, for a module in training mode or that draws numbers, and where no submodule
            of one side has the name of one of the other.
        EngineError: where a module fails.

    Example:
        ```python
        comparison = wp.module_parity(reference, port, torch.randn(1, 16, 64), rename={r"^layers\.": "blocks."})
        assert comparison, comparison
        ```
    """
    _check_precision(precision)
    calls = _calls(inputs)
    sides = (_Side("reference", reference, calls), _Side("candidate", candidate, calls, renames(rename)))
    for side in sides:
        _check_evaluates(side)
    seen = [_scouted(side) for side in sides]
    matched = _matched(sides, seen)
    dtype = precision_of(seen[0].dtypes)
    family = _Modules(dtype, seen[0].always(matched))
    judgement = Judgement(
        fixed_tolerance(cast(Family, family), dtype, activations=tolerance, reason="modules have no noise floor"),
        (),
        tuple(allow_missing),
        precision,
    )
    weights = _Weights.of(*sides)
    if weights.unequal and WEIGHTS not in _checked_accepted(accept_inputs):
        return weights.comparison([side.name for side in sides], judgement.bounds)
    session = _ModuleRuns(family, calls, sides, [each.leaves(matched) for each in seen], _tables_alone(*sides))
    comparison = session.compared(judgement) if exact else session.compared_by_tolerance(judgement)
    comparison = contradicted(comparison, _other_texts(seen, matched))
    notes = [*weights.notes(), *_left_out(sides, seen, matched)]
    return msgspec.structs.replace(comparison, notes=[*comparison.notes, *notes])


# --- what was given


def _calls(inputs: Any) -> list[Call]:
    """The calls that inputs stand for. Raises UserError where they stand for none."""
    given = inputs if isinstance(inputs, list) else [inputs]
    if not given:
        raise _no_inputs("an empty list")
    return [_call(each) for each in given]


def _call(given: Any) -> Call:
    if isinstance(given, Call):
        return given
    if isinstance(given, np.ndarray):
        return Call(torch.from_numpy(given))
    if isinstance(given, Tensor):
        return Call(given)
    if isinstance(given, tuple):
        return Call(*given)
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return Call(**given)
    raise _no_inputs(type(given).__name__)


def _no_inputs(found: str) -> UserError:
    return UserError(
        "inputs: no arguments of a module",
        found=found,
        expected="a tensor, a tuple of positional arguments, a dict of keyword arguments, Call, or a list of calls",
        do="give one of these, such as Call(x, mask=mask)",
    )


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        expected, do = f"one of {', '.join(PRECISIONS)}", "correct it"
        raise UserError("precision: there is none of this name", found=precision, expected=expected, do=do)


def _checked_accepted(names: Sequence[str]) -> Sequence[str]:
    if unknown := [name for name in names if name != WEIGHTS]:
        raise UserError(
            "accept_inputs: no such input", found=listed(unknown), expected=WEIGHTS, do="correct it, or leave it out"
        )
    return names


@dataclass(frozen=True)
class _Side:
    """One of the two modules, as it was given; what `renamed` makes of its names are the reference's."""

    role: str
    given: nn.Module
    calls: Sequence[Call]
    renamed: Callable[[str], str] = str

    def __post_init__(self) -> None:
        if not isinstance(self.given, nn.Module):
            raise UserError(
                f"{self.role}: no module of torch",
                found=type(self.given).__name__,
                expected="an nn.Module",
                do='wrap it into one that shows its values, as "A port that is not torch" in docs/python.md does',
            )

    @property
    def module(self) -> nn.Module:
        """The module itself: a compiled one computes what it is made of."""
        inner = getattr(self.given, "_orig_mod", None)
        return inner if isinstance(inner, nn.Module) else self.given

    @property
    def name(self) -> str:
        """What it is called in a comparison."""
        return f"{self.role} {type(self.module).__name__}"

    def fresh(self) -> nn.Module:
        """A copy that has run nothing yet. It shares the parameters, and has buffers and other state of its own.

        Raises UserError for a module that cannot be copied.
        """
        shared: dict[int, Any] = {id(parameter): parameter for parameter in self.module.parameters()}
        try:
            return copy.deepcopy(self.module, shared)
        except Exception as error:
            raise UserError(
                f"{self.name}: cannot be copied",
                found=f"{type(error).__name__}: {error}",
                expected="a module that copy.deepcopy takes: each run is to begin with the state that was given",
                do="take away what cannot be copied, such as an open file or a tensor with gradients in an attribute",
            ) from error


def _check_evaluates(side: _Side) -> None:
    """Raise UserError for a module in training mode: it draws numbers, or changes its statistics."""
    training = [name or WHOLE for name, module in side.module.named_modules() if module.training]
    if training:
        raise UserError(
            f"{side.name}: is in training mode",
            found=listed(training),
            expected="evaluation mode, in which nothing is drawn and no statistics change",
            do=f"call {side.role}.eval() first",
        )


# --- the first look


@dataclass
class _Scouted:
    """What a module showed when it first ran: tensors by site, in the order in which they came; and what else."""

    # By the site of a module, the sites of its tensors, in the order of execution.
    sites: dict[str, dict[str, None]] = field(default_factory=dict)
    shown: list[set[str]] = field(default_factory=list)
    dtypes: Counter[str] = field(default_factory=Counter)
    others: dict[str, list[str]] = field(default_factory=dict)
    # Of every call in which a module returned some.
    texts: dict[str, list[list[str]]] = field(default_factory=dict)
    digests: list[str] = field(default_factory=list)

    def leaves(self, matched: Collection[str]) -> dict[str, str]:
        """The site of every tensor of these modules, and that of its module."""
        return {leaf: site for site, named in self.sites.items() if site in matched for leaf in named}

    def always(self, matched: Collection[str]) -> list[str]:
        """The sites of tensors that every call showed."""
        return [leaf for leaf in self.leaves(matched) if all(leaf in shown for shown in self.shown)]


@exact_arithmetic()
def _scouted(side: _Side) -> _Scouted:
    """Run a module on all inputs, twice.

    Raises UserError where it returns nothing to compare, or something else the second time; EngineError if it fails.
    """
    seen = _Scouted()
    watched, last = side.fresh(), WHOLE

    def look(site: str, module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal last
        last = site
        with apart():
            found = sites_of(site, output)
            seen.sites.setdefault(site, {}).update(dict.fromkeys(found))
            seen.shown[-1].update(found)
            dtypes = (leaf.value.dtype for leaf in found.values() if isinstance(leaf.value, Tensor))
            seen.dtypes.update(str(dtype).removeprefix("torch.") for dtype in dtypes)
            if (others := uncompared(output)) and site not in seen.others:
                seen.others[site] = others
            if texts := texts_of(output):
                seen.texts.setdefault(site, []).append(texts)
            if site == WHOLE:
                seen.digests.append(_digest(found))

    for site, module in named_modules(watched, side.renamed).items():
        module.register_forward_hook(partial(look, site))
    again, digests = side.fresh(), []
    for number, call in enumerate(side.calls):
        seen.shown.append(set())
        with engine_works(side.name, lambda number=number: f"in call {number}, behind {last}"):  # type: ignore[misc]
            first, second = _filled(call, side), _filled(call, side)
            watched(*first.args, **first.kwargs)
            output = again(*second.args, **second.kwargs)
        digests.append(_digest(sites_of(WHOLE, output)))
    if not seen.sites.get(WHOLE):
        raise UserError(
            f"{side.name}: returns nothing that can be compared",
            found=listed(seen.others.get(WHOLE, [])),
            expected="tensors, also in tuples, lists, dicts and dataclasses",
            do="wrap it into a module that returns them",
        )
    if seen.digests != digests:
        raise UserError(
            f"{side.name}: computes something else when it runs again",
            found="other bits of the same module on the same inputs",
            expected="a module that draws nothing, with a state of its own",
            do="switch off dropout and noise, or give noise as an input; look for state that is kept in a global",
        )
    return seen


def _digest(found: Mapping[str, Leaf]) -> str:
    plain = [leaf.value.detach().cpu() if isinstance(leaf.value, Tensor) else leaf.value for leaf in found.values()]
    return " ".join(fast_digest(value) if _is_plain(value) else repr(value) for value in plain)


def _is_plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_complex()


def _filled(call: Call, side: _Side) -> Call:
    """A call with arguments of its own: tensors and whatever else are the module's own."""
    values, spec = pytree.tree_flatten((call.args, call.kwargs))
    device = _device(side.module)
    own = [each.detach().clone().to(device) if isinstance(each, Tensor) else copy.deepcopy(each) for each in values]
    args, kwargs = pytree.tree_unflatten(own, spec)
    return Call(*args, **kwargs)


def _device(module: nn.Module) -> torch.device | None:
    tensors = [*module.parameters(), *module.buffers()]
    return tensors[0].device if tensors else None


def _matched(sides: Sequence[_Side], seen: Sequence[_Scouted]) -> set[str]:
    """The sites of modules that both sides have, and one at least calls. Raises UserError where none is a submodule."""
    called = [each.sites.keys() - {WHOLE} for each in seen]
    names = [named_modules(side.module, side.renamed).keys() for side in sides]
    matched = names[0] & names[1] & (seen[0].sites.keys() | seen[1].sites.keys())
    if all(called) and matched <= {WHOLE}:
        raise UserError(
            "no submodule of the candidate has the name of one of the reference",
            found=listed(_outermost(called[1])),
            expected=listed(_outermost(called[0])),
            do="give rules that make the reference's names of the candidate's: rename={regex: replacement}",
        )
    return matched


def _outermost(sites: Collection[str]) -> list[str]:
    """The sites that lie in none of the others."""
    return [site for site in sites if not any(site.startswith(f"{other}.") for other in sites)]


def _left_out(sides: Sequence[_Side], seen: Sequence[_Scouted], matched: Collection[str]) -> list[str]:
    """What was not compared, in sentences."""
    notes = []
    for side, shown in zip(sides, seen, strict=True):
        if alone := _outermost([site for site in shown.sites if site not in matched]):
            others = listed(alone, most=_MOST_NAMED)
            notes.append(f"modules of the {side.role} without a partner were not compared: {others}")
        if kinds := [f"{site} ({', '.join(each)})" for site, each in shown.others.items() if site in matched]:
            notes.append(f"values of the {side.role} that are no tensors were not compared: {listed(kinds)}")
    names = [dict(named_modules(side.module, side.renamed)) for side in sides]
    idle = [
        site
        for site in names[0].keys() & names[1].keys() - matched
        if any(True for _ in names[0][site].parameters(recurse=False))
    ]
    if idle:
        notes.append(f"modules that neither side calls were not compared: {listed(sorted(idle))}")
    return notes


def _other_texts(seen: Sequence[_Scouted], matched: Collection[str]) -> list[str]:
    """Where the sides return different texts."""
    reference, candidate = (each.texts for each in seen)
    sites = [site for site in dict.fromkeys([*reference, *candidate]) if site in matched or site == WHOLE]
    unlike = [site for site in sites if reference.get(site) != candidate.get(site)]
    return [f"{site} returns other texts: {candidate.get(site)}, not {reference.get(site)}" for site in unlike]


def _tables_alone(reference: _Side, candidate: _Side) -> list[set[str]]:
    """The floating buffers of each side that the other one has none of, by the reference's names."""
    held = [_named_tensors(side.module, side.renamed, "buffers") for side in (reference, candidate)]
    return [
        {name for name, buffer in mine.items() if name not in other and buffer.is_floating_point()}
        for mine, other in zip(held, reversed(held), strict=True)
    ]


# --- weights


@dataclass(frozen=True)
class _Weights:
    """How the parameters and buffers of two modules are to each other, by the reference's names."""

    unequal: list[SiteResult]
    buffers: list[str]
    shapes: list[str]
    alone: dict[str, list[str]]
    shared: int

    @classmethod
    def of(cls, reference: _Side, candidate: _Side) -> "_Weights":
        """Compare what has the same name on both sides."""
        right, found = (_named_tensors(side.module, side.renamed, "parameters") for side in (reference, candidate))
        unequal, shapes = [], []
        for order, (name, expected) in enumerate(right.items()):
            if (actual := found.get(name)) is None:
                continue
            if actual.shape != expected.shape:
                shapes.append(f"{name} {list(actual.shape)}, not {list(expected.shape)}")
            elif (result := _unequal(order, name, actual, expected)) is not None:
                unequal.append(result)
        kept = [_named_tensors(side.module, side.renamed, "buffers") for side in (reference, candidate)]
        buffers = [
            name for name in kept[0] if name in kept[1] and _unequal(0, name, kept[1][name], kept[0][name]) is not None
        ]
        alone = {
            "reference": [name for name in right if name not in found],
            "candidate": [name for name in found if name not in right],
        }
        return cls(unequal, buffers, shapes, alone, len(right.keys() & found.keys()))

    def comparison(self, names: Sequence[str], bounds: Bounds) -> Comparison:
        """The comparison of modules whose weights differ: no score."""
        first = self.unequal[0]
        how = f"relative L2 {first.rel_l2:.2e}" if first.rel_l2 is not None else str(first.note)
        reason = f"parameters differ: {len(self.unequal)} of {self.shared} of the same name, first {first.site} ({how})"
        if others := [each.site for each in self.unequal[1:]]:
            reason += f"; also {listed(others)}"
        reference, candidate = names
        found = incomparable(reference, candidate, reason, bounds=bounds, evidence=LIVE, first=first)
        return msgspec.structs.replace(found, notes=self.notes())

    def notes(self) -> list[str]:
        """What is worth knowing, in sentences."""
        notes = []
        if self.unequal:
            notes.append(f"parameters differ: {listed([each.site for each in self.unequal])}")
        if self.buffers:
            notes.append(f"buffers differ: {listed(self.buffers)}")
        if self.shapes:
            notes.append(f"parameters of other shapes were not compared: {listed(self.shapes)}")
        for role, names in self.alone.items():
            if names:
                notes.append(f"parameters of the {role} without a partner were not compared: {listed(names)}")
        return notes


def _named_tensors(whole: nn.Module, renamed: Callable[[str], str], kind: str) -> dict[str, Tensor]:
    """The parameters or buffers of a module, by the reference's names; those left out by a rule are not among them."""
    found = {}
    for name, module in whole.named_modules():
        site = renamed(name) if name else ""
        if name and not site:
            continue
        for own, tensor in getattr(module, f"named_{kind}")(recurse=False):
            found[f"{site}.{own}".removeprefix(".")] = tensor
    return found


def _unequal(order: int, name: str, actual: Tensor, expected: Tensor) -> SiteResult | None:
    """How a weight differs; None where it is the same. A square matrix that was transposed holds the same."""
    with torch.no_grad():
        error = tensor_error(actual, expected)
        square = expected.dim() == 2 and actual.shape == expected.shape
        if error.rel_l2 == 0 or (square and torch.equal(actual.T.to(expected), expected)):
            return None
    finite = error.rel_l2 != float("inf")
    return SiteResult(
        order=order,
        unit=0,
        phase=WEIGHTS,
        step=0,
        site=name,
        verdict=Verdict.INCOMPARABLE,
        rel_l2=error.rel_l2 if finite else None,
        tolerance=0.0,
        cosine=error.cosine,
        norm_ratio=error.norm_ratio,
        max_abs=error.max_abs,
        note=error.note or ("" if finite else "every element of the reference is 0"),
    )


# --- the runs


class _Modules(Unknown):
    """A family for one comparison: its sites are those that the reference shows, its session a pass for each call."""

    def __init__(self, dtype: str, sites: Sequence[str]) -> None:
        self._dtype = dtype
        self._sites = SiteTable(SiteRow(name=site, phases=(_PHASE,), part=site) for site in sites)

    @property
    def sites(self) -> SiteTable:
        """Every site that the reference shows in each call."""
        return self._sites

    def table(self, geometry: Any, scenario: Scenario) -> SiteTable:
        """The same."""
        return self._sites

    def session(self, scenario: Scenario, geometry: Any) -> Iterator[tuple[int, Pass]]:
        """A pass for each call."""
        yield from ((unit, Pass(_PHASE)) for unit in range(scenario.units))


@dataclass(frozen=True)
class _InMemory(Checkpoint):
    """Stands for a checkpoint of modules that are there already."""

    known: Any = None

    @property
    def family(self) -> Family:
        """The family of this comparison."""
        family: Family = self.known
        return family


class _Driven:
    """The adapter of a module: a copy of its own, watched at some sites."""

    CALLED: ClassVar[str] = "module"

    def __init__(
        self, side: _Side, leaves: Mapping[str, str], shadow: Shadow | None, tables: Collection[str] = ()
    ) -> None:
        """`leaves`: the site of every tensor, and that of its module. `tables`: buffers that are not known exactly."""
        self._tables = tables
        self._side, self._shadow, self._leaves = side, shadow, leaves
        self._module = side.fresh()
        self._named = named_modules(self._module, side.renamed)

    def describe(self) -> dict[str, str]:
        """The class."""
        return {"class": f"{type(self._module).__module__}.{type(self._module).__qualname__}"}

    def sites(self) -> Mapping[str, Site]:
        """Every tensor of every module that is watched."""
        return {
            leaf: Site(self._named[site], partial(_leaf, site, leaf), partial(_with_leaf, site, leaf))
            for leaf, site in self._leaves.items()
        }

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """A pass for each call."""
        if self._shadow is not None:
            self._shadow.give(_held(self._module))
            for name, buffer in _named_tensors(self._module, self._side.renamed, "buffers").items():
                if name in self._tables:
                    self._shadow.lose(buffer, f"the buffer {name} is held by one side alone")
        for unit, call in enumerate(self._side.calls):
            with apart():
                filled = _filled(call, self._side)
            if self._shadow is not None:
                self._shadow.give(
                    each for each in pytree.tree_leaves((filled.args, filled.kwargs)) if isinstance(each, Tensor)
                )
            yield unit, Pass(_PHASE)
            self._module(*filled.args, **filled.kwargs)


def _leaf(site: str, leaf: str, output: Any, inputs: Any) -> Any:
    """A tensor of an output; nothing where this output has none of that name."""
    found = sites_of(site, output).get(leaf)
    return {} if found is None else found.value


def _with_leaf(site: str, leaf: str, value: Any, output: Any) -> Any:
    found = sites_of(site, output).get(leaf)
    return output if found is None or not isinstance(value, Tensor) else put(output, found.path, value)


def _held(module: nn.Module) -> Iterator[Tensor]:
    """Every tensor that a module holds when it starts, also in attributes, lists and dicts."""
    for part in module.modules():
        values = [value for name, value in vars(part).items() if name != "_modules"]
        yield from (each for each in pytree.tree_leaves(values) if isinstance(each, Tensor) and not each.is_meta)


@dataclass(frozen=True)
class _ModuleRuns:
    """Both modules on all inputs, as often as a judgement needs them."""

    family: _Modules
    calls: Sequence[Call]
    sides: Sequence[_Side]
    leaves: Sequence[Mapping[str, str]]
    # Floating buffers of each side that the other one has none of.
    tables: Sequence[Collection[str]]

    @property
    def checkpoint(self) -> Checkpoint:
        """What stands for a checkpoint."""
        return _InMemory("", self.family.name, None, {}, known=self.family)

    @property
    def scenario(self) -> Scenario:
        """As many units as there are calls. The inputs are the adapters' own."""
        return Scenario(self.family.name, "inputs", 0, len(self.calls), {})

    def compared(self, judgement: Judgement) -> Comparison:
        """Judged by mathematics and precision; where neither is known, by the tolerance.

        A table may be a buffer on one side and be computed on the other: nobody knows the exact values of the buffer.
        """
        disturbed, plain = self._shadowed(LANES), self._side(1, None)
        units = range(len(self.calls))
        local = fed_run(disturbed, plain.adapter, self.checkpoint, self.scenario, units, LANES, least=judgement.least)

        def compared(grows: Mapping[Any, float] | None) -> Comparison:
            reference, candidate = (self._side(index, Shadow(), self.tables[index]) for index in (0, 1))
            return lockstep(reference, candidate, self.checkpoint, self.scenario, judgement, local=local, grows=grows)

        # A port that is less precise on purpose has errors that rounding does not grow to.
        comparison = compared({} if judgement.precision == AS_REFERENCE else None)
        if comparison.verdict is Verdict.UNEXPLAINED and not comparison.contradictions:
            # The reference's own error was one draw: more of them tell.
            comparison = compared(growth(self._shadowed(GROWTH_LANES), self.scenario))
        return comparison

    def compared_by_tolerance(self, judgement: Judgement) -> Comparison:
        """Judged by the tolerance alone."""
        reference, candidate = (self._side(index, None) for index in (0, 1))
        return lockstep(reference, candidate, self.checkpoint, self.scenario, judgement)

    def _side(self, index: int, shadow: Shadow | None, tables: Collection[str] = ()) -> Side:
        side = self.sides[index]
        return Side(side.name, _Driven(side, self.leaves[index], shadow, tables), shadow=shadow)

    def _shadowed(self, lanes: int) -> Shadowed:
        shadow = Shadow(lanes=lanes)
        driven = _Driven(self.sides[0], self.leaves[0], shadow)
        return Shadowed(driven, shadow, self.checkpoint, set(), (Counter(), Counter()))
