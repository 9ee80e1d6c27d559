"""The seam: what the harness asks of a family of models. Nothing here needs torch.

Ours are found by looking into harness/families, others by entry point; each is an object called FAMILY.
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, cast

import msgspec

from waypoint_parity.harness.errors import UserError, listed

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import numpy.typing as npt
    from torch import Tensor

    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.checkpoint.weights import Shape, Weights
    from waypoint_parity.harness.run.adapter import Numerics, Pass
    from waypoint_parity.harness.run.keys import Key
    from waypoint_parity.harness.run.scenario import Scenario
    from waypoint_parity.harness.run.sites import SiteTable

GROUP = "waypoint_parity.families"

# Where in the pipeline a part lies.
PipelinePlace = Literal["input", "sampler", "transformer", "cache", "decoder", "after the decoder"]


class Geometry(Protocol):
    """What the harness may ask of a model's configs; everything else is the family's."""

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The config of every component as plain values."""
        ...


@dataclass(frozen=True, kw_only=True)
class Field:
    """A tensor that a scenario records: its dtype as torch spells it, and its axes.

    Axes that are called "unit" have one entry for each unit. `site` shows it as it was consumed; else `input.` and its
    name. `drawn`: start noise, which may be off by a rounding. `schedule`: it tells the noise levels. `level`: its
    site shows the level of its own step. `told` makes texts for a report of the tensors of a scenario, this one among
    them: one for each unit, or one for all.
    """

    dtype: str
    axes: tuple[str, ...]
    required: bool = True
    site: str | None = None
    drawn: bool = False
    schedule: bool = False
    level: bool = False
    told: "Callable[[Mapping[str, npt.NDArray[Any]]], list[str]] | None" = None

    @property
    def of_units(self) -> bool:
        """Whether it has one entry for each unit."""
        return self.axes[:1] == ("unit",)


@dataclass(frozen=True)
class Part:
    """A part of the model, or an input: what can be to blame, and be exchanged.

    `group` gathers parts that are exchanged together; `place` is where in the pipeline it lies. `whole`: its numbered
    sites are no blocks of their own. `component`: the one that can be run alone and has the part, if any has.
    """

    name: str
    group: str
    place: PipelinePlace
    whole: bool = False
    component: str = ""


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault in one of `parts`, and what to check in the code. Nothing here measures; it is told by words.

    Each condition that is given must hold, by any one of its words. What is not known contradicts none: an unknown norm
    or course, and controls where no experiment showed any.
    """

    parts: tuple[str, ...]
    kind: str
    check: str
    onset: tuple[str, ...] = ()
    extent: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    norm: str | None = None
    course: str | None = None
    controls: tuple[str, ...] = ()


class SlotFault(msgspec.Struct, frozen=True, kw_only=True):
    """A slot of a cache that does not hold, or does not show, what the reference's does."""

    cache: str
    unit: int
    phase: str
    step: int
    slot: int
    message: str


class CacheTable(NamedTuple):
    """Caches of one side that hold the same, slot by slot: a row for every time that they were written.

    `marks` are the (row, column) of wrong slots. `title` says which caches they are.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    marks: set[tuple[int, str]]


class CacheComparison(Protocol):
    """Follows the caches of two sides, each side's observations in its order, and keeps the first faults."""

    def reference(self, order: int, sign: Any) -> None:
        """The reference's next observation; `order` is its place in the execution."""
        ...

    def candidate(self, sign: Any) -> None:
        """The candidate's next observation."""
        ...

    @property
    def faults(self) -> list[SlotFault]:
        """The first faults, in the reference's execution order."""
        ...


class MarksTold(NamedTuple):
    """What a record says of a cache: a word for each slot, shape, known elements by their places, and their mean."""

    site: str
    marks: Sequence[str]
    shape: Sequence[int]
    known: Mapping[int, float]
    mean: float | None


class Caches(Protocol):
    """State that outlives a step, told slot by slot in a word each.

    `described` is what `describe` gave, as a manifest holds it: None or empty of a model without such state.
    """

    # What the signs in the tables mean.
    legend: str

    def describe(self, geometry: Any) -> list[dict[str, Any]]:
        """Every cache of a model, as plain values for the manifest."""
        ...

    def marks(self, site: str, tensor: "Tensor", described: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """A word for every slot that `tensor` shows; None where the site shows none."""
        ...

    def wrong_marks(
        self, told: MarksTold, tensor: "Tensor | None", described: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str] | None:
        """(found, expected) where such words cannot be of what a site shows; None where they can.

        `tensor` is what it shows, where that is known.
        """
        ...

    def tells(self, site: str) -> bool:
        """Whether the observations of a site are of use to a comparison."""
        ...

    def sign(self, key: "Key", dtype: str | None, digest: str | None, marks: list[str] | None) -> Any:
        """What an observation tells of the caches."""
        ...

    def lines(self, folder: Path, layer: int | None) -> list[str]:
        """What every slot of a dump's caches holds, of one layer or of all, in lines for a terminal."""
        ...

    def comparison(self, described: Sequence[Mapping[str, Any]], *, teacher_forced: bool) -> CacheComparison:
        """A new comparison; `teacher_forced`: the candidate is given the reference's caches after every unit."""
        ...

    def tables(self, folder: Path, faults: Collection[SlotFault] = ()) -> list[CacheTable] | None:
        """What the caches of a dump held, with the slots of `faults` marked; None of a family without such state.

        Raises UserError for a dump that is broken or incomplete, or that does not tell what its slots hold.
        """
        ...


class NoCaches:
    """Of a family that keeps nothing between steps that could be told slot by slot."""

    legend = ""

    def describe(self, geometry: Any) -> list[dict[str, Any]]:
        """No cache."""
        return []

    def marks(self, site: str, tensor: "Tensor", described: Sequence[Mapping[str, Any]]) -> list[str] | None:
        """No slots."""
        return None

    def wrong_marks(
        self, told: MarksTold, tensor: "Tensor | None", described: Sequence[Mapping[str, Any]]
    ) -> tuple[str, str] | None:
        """Any word is wrong."""
        return f"{len(told.marks)} slots", "none: the site shows no cache"

    def tells(self, site: str) -> bool:
        """Nothing tells of them."""
        return False

    def sign(self, key: "Key", dtype: str | None, digest: str | None, marks: list[str] | None) -> Any:
        """Nothing."""
        return None

    def lines(self, folder: Path, layer: int | None) -> list[str]:
        """Nothing to tell. Raises UserError."""
        raise UserError(
            f"{folder}: has no caches that could be told slot by slot",
            found="a family without any",
            expected="a dump of models that keep one",
            do="look at its records",
        )

    def comparison(self, described: Sequence[Mapping[str, Any]], *, teacher_forced: bool) -> CacheComparison:
        """A comparison that finds nothing."""
        return _NoFaults()

    def tables(self, folder: Path, faults: Collection[SlotFault] = ()) -> None:
        """No table."""
        return


class _NoFaults:
    faults: ClassVar[list[SlotFault]] = []

    def reference(self, order: int, sign: Any) -> None:
        pass

    def candidate(self, sign: Any) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a unit's final latent becomes pictures, for decoding one side's latents with the other's decoder.

    `latent`, `outputs` and `picture` are sites: what is decoded, what a decoder gives before it is made a picture (of
    several, a model has one), and the pictures. `alone(scenario, geometry, units)` makes the shortest session in which
    the latents of some units can be put in place and decoded, and says which units it has.
    """

    latent: str
    outputs: tuple[str, ...]
    picture: str
    alone: Callable[["Scenario", Any, Sequence[int]], tuple["Scenario", Sequence[int]]]


@dataclass(frozen=True, kw_only=True)
class Factor:
    """What a sweep can vary about a scenario.

    `change(scenario, geometry, level)` is the scenario at a level, which is spelt as on the command line. It raises
    UserError for a level that there is none of. `levels` are those of the default sweep. `kept` is the level that
    keeps what the scenario has, where it has a name. `name_of` stands for a level in a cell's name. `applies` says
    whether a model can be varied so. `said` is how a sentence calls some levels of those tested, where it has a better
    word than their names.
    """

    change: Callable[["Scenario", Any, str], "Scenario"]
    levels: tuple[str, ...] = ()
    kept: str | None = None
    name_of: Callable[[str], str] = str
    applies: Callable[[Any], bool] = lambda geometry: True
    said: Callable[[Collection[str], Collection[str]], str | None] = lambda levels, tested: None


class Opened(NamedTuple):
    """A checkpoint folder as its family reads it: configs, and the tensors of every component."""

    geometry: Any
    files: Mapping[str, "Weights"]


class Family(Protocol):
    """What is particular to a family of models. `scenario` always fits, `geometry` is what `open` gave."""

    name: str
    # What a unit is called: "frame", "chunk", "clip".
    unit_name: str
    # Components of a checkpoint, such as "transformer" and "vae", in the order that its digest takes them.
    components: tuple[str, ...]
    fields: Mapping[str, Field]
    factors: Mapping[str, Factor]
    # The table of a model with everything that the family knows, for dumps whose geometry is not at hand.
    sites: "SiteTable"
    # What the names of matrices have in them that all blocks of a component share, by component.
    tied: Mapping[str, str]
    # In the order of execution.
    parts: Sequence[Part]
    kinds: Sequence[FaultKind]
    caches: Caches
    # None of a family whose latents cannot be decoded by themselves.
    decoding: Decoding | None
    # Relative L2 by dtype, for checkpoints without a noise floor: of activations, and of pictures.
    tolerances: Mapping[str, tuple[float, float]]

    # What a folder of such a checkpoint holds, in words; and what writes each layout into an empty folder, by its name.
    layout: str
    # Its config files, by their paths in such a folder or on a hub.
    configs: tuple[str, ...]
    layouts: Mapping[str, Callable[["Checkpoint", Path], None]]

    def layout_of(self, folder: Path) -> str | None:
        """The layout of the checkpoint in a folder, judged by its files alone; None where none of this family is."""
        ...

    def weight_files(self, folder: Path) -> tuple[str, ...]:
        """Patterns of the weights that belong to the configs in a folder."""
        ...

    def open(self, folder: Path, find: Callable[[str], Path]) -> Opened:
        """The checkpoint in a folder; `find` fetches what it names on a hub. Raises UserError for a broken config."""
        ...

    def keys(self, component: str, geometry: Any) -> Mapping[str, "Shape"] | None:
        """Key -> shape of a component's weights; None where the family does not know them."""
        ...

    def problems(self, tensors: Mapping[str, "Tensor"], labels: Mapping[str, str]) -> list[str]:
        """What is wrong with the fields of a scenario file, beyond names and dtypes."""
        ...

    def units(self, tensors: Mapping[str, "Tensor"]) -> int:
        """How many units a scenario of these tensors has."""
        ...

    def make(self, geometry: Any, *, name: str, seed: int, units: int, **wanted: Any) -> "Scenario":
        """A scenario from a seed alone, the same on every machine with the same torch."""
        ...

    def check(self, scenario: "Scenario", geometry: Any) -> None:
        """Raise UserError, naming every field that does not fit, where the scenario is not one for the geometry."""
        ...

    def prepared(self, scenario: "Scenario", geometry: Any) -> "Scenario":
        """The scenario with what it leaves to the checkpoint, such as the schedule."""
        ...

    def first_units(self, scenario: "Scenario", units: int) -> "Scenario":
        """The scenario's first units alone."""
        ...

    def other(self, scenario: "Scenario", geometry: Any) -> "Scenario":
        """A session that is given other values throughout, long enough to leave something in every cache."""
        ...

    def sigmas(self, scenario: "Scenario", geometry: Any) -> list[float]:
        """The schedule of a session, for a manifest; empty where there is none."""
        ...

    def session(self, scenario: "Scenario", geometry: Any) -> Iterator[tuple[int, "Pass"]]:
        """(unit, pass) of every pass of a right implementation's session, in the order of execution."""
        ...

    def table(self, geometry: Any, scenario: "Scenario") -> "SiteTable":
        """All that is known of the sites of a session."""
        ...

    def facts(self, checkpoint: Path) -> Mapping[str, str]:
        """What a report says of a checkpoint, of what its configs hold; by name. The folder may be gone."""
        ...

    def counts(self, key: "Key", scenario: "Scenario", geometry: Any) -> "Tensor | None":
        """Which positions of an observation count, broadcastable to its tensor; None where all do."""
        ...

    def words(self, first: "Key", faults: Collection["Key"], geometry: Any, scenario: "Scenario") -> list[str]:
        """What is true of a part's faulty observations in the family's own words: see `kinds`."""
        ...

    def layer_groups(self, names: Collection[str], geometry: Any) -> Mapping[str, Sequence[int]]:
        """Groups of blocks by a word, of those that have sites whose last names are `names`; "every" is the first."""
        ...

    def geometry_lines(self, geometry: Any) -> list[str]:
        """What the configs say, in lines for a terminal."""
        ...

    def weight_lines(self, files: Mapping[str, "Weights"], geometry: Any) -> list[str]:
        """What is worth knowing of weights that have nothing wrong with them, in lines for a terminal."""
        ...

    def scenario_lines(self, scenario: "Scenario") -> list[str]:
        """What is worth knowing of a scenario besides its fields, in lines for a terminal."""
        ...

    def serving(
        self,
        names: Sequence[str],
        checkpoint: "Checkpoint",
        numerics: "Sequence[Numerics]",
        scenario: "Scenario",
        page: Callable[[Any, str], str],
        **wanted: Any,
    ) -> AbstractContextManager[str]:
        """Sessions of several implementations that somebody steers from a page, whose address this is.

        `page` makes it of what it has to show, and a token. Raises UserError where such sessions cannot be steered.
        """
        ...

    def control(self, part: str, scenario: "Scenario", geometry: Any) -> "tuple[Scenario, str, str] | None":
        """A control experiment that tells causes in this part apart, where there is one.

        Its scenario, and what is true of a cause: where the part is wrong there too, and where it is right.
        """
        ...


class Plain:
    """What a family says that has nothing particular to say. To derive from.

    What remains to be said is in `Family` and not here: name, components, fields, sites, parts, tolerances, how a
    checkpoint is laid out, opened and keyed, how a scenario is made and checked, and how a session runs.
    """

    # What a family says for itself, as `other` uses it.
    make: Callable[..., "Scenario"]

    unit_name = "unit"
    tied: ClassVar[Mapping[str, str]] = {}
    kinds: ClassVar[Sequence[FaultKind]] = ()
    caches: Caches = NoCaches()

    @property
    def factors(self) -> Mapping[str, Factor]:
        """Nothing can be varied."""
        return {}

    @property
    def decoding(self) -> Decoding | None:
        """Latents cannot be decoded by themselves."""
        return None

    @property
    def layouts(self) -> Mapping[str, Callable[["Checkpoint", Path], None]]:
        """No layout can be written."""
        return {}

    def problems(self, tensors: Mapping[str, "Tensor"], labels: Mapping[str, str]) -> list[str]:
        """None."""
        return []

    def prepared(self, scenario: "Scenario", geometry: Any) -> "Scenario":
        """The scenario as it is."""
        return scenario

    def other(self, scenario: "Scenario", geometry: Any) -> "Scenario":
        """One from another seed."""
        return self.make(geometry, name="another session", seed=~(scenario.seed or 0) & 0xFFFF, units=scenario.units)

    def sigmas(self, scenario: "Scenario", geometry: Any) -> list[float]:
        """No schedule."""
        return []

    def facts(self, checkpoint: Path) -> Mapping[str, str]:
        """Nothing besides the configs."""
        return {}

    def counts(self, key: "Key", scenario: "Scenario", geometry: Any) -> "Tensor | None":
        """Every position counts."""
        return None

    def words(self, first: "Key", faults: Collection["Key"], geometry: Any, scenario: "Scenario") -> list[str]:
        """No words of its own."""
        return []

    def layer_groups(self, names: Collection[str], geometry: Any) -> Mapping[str, Sequence[int]]:
        """No groups of blocks."""
        return {}

    def control(self, part: str, scenario: "Scenario", geometry: Any) -> "tuple[Scenario, str, str] | None":
        """No control experiment."""
        return None

    def geometry_lines(self, geometry: Any) -> list[str]:
        """The configs in a line each."""
        return [f"{name:12} {config}" for name, config in geometry.to_json().items()]

    def weight_lines(self, files: Mapping[str, "Weights"], geometry: Any) -> list[str]:
        """Nothing."""
        return []

    def scenario_lines(self, scenario: "Scenario") -> list[str]:
        """Nothing besides its fields."""
        return []

    def serving(self, names: Sequence[str], *_: Any, **__: Any) -> AbstractContextManager[str]:
        """Sessions cannot be steered."""
        raise UserError(
            "these models cannot be steered",
            found=", ".join(names),
            expected="a family whose sessions go on as somebody steers them",
            do="compare recorded sessions: waypoint-parity parity --help",
        )


class Unknown(Plain):
    """Of dumps whose models no family knows: their sites have whatever names they have. No checkpoint is of it."""

    name = ""
    components = ()
    configs = ()
    layout = "none"
    fields: ClassVar[Mapping[str, Field]] = {}
    parts: ClassVar[Sequence[Part]] = ()
    # Those of Waypoint, for want of a measurement; fp16 has three bits more than bf16.
    tolerances: ClassVar[Mapping[str, tuple[float, float]]] = {
        "fp64": (1e-5, 1e-3),
        "fp32": (1e-5, 1e-3),
        "fp16": (3e-2 / 8, 3e-2 / 8),
        "bf16": (3e-2, 3e-2),
    }

    @property
    def sites(self) -> "SiteTable":
        """None that is known."""
        from waypoint_parity.harness.run.sites import SiteTable

        return SiteTable(())


class FirstFamily(Family, Protocol):
    """The family whose dumps are older than the names that the records have now."""

    def upgraded(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """A manifest of the first schema in the names of this one."""
        ...


def optional_fields(family: Family, names: Collection[str]) -> list[str]:
    """Those of a scenario's fields that it might do without; the schedule is told by its values."""
    return sorted(
        name for name, field in family.fields.items() if name in names and not field.required and not field.schedule
    )


def part_named(name: str, family: Family) -> Part:
    """The part of this name. Raises ValueError where there is none."""
    for part in family.parts:
        if part.name == name:
            return part
    raise ValueError(f"no part is called {name}; there are {', '.join(part.name for part in family.parts)}")


@cache
def families() -> Mapping[str, Family]:
    """Every family by its name: ours, then those that installed distributions register under GROUP."""
    # Not needed to read and compare dumps, and slow to import.
    from importlib.metadata import entry_points

    package = importlib.import_module("waypoint_parity.harness.families")
    ours = (importlib.import_module(f"{package.__name__}.{found.name}.family") for found in _folders(package.__path__))
    found: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in ours}
    for point in entry_points(group=GROUP):
        family = _registered(point)
        if family.name in found:
            raise _unusable(point, f"{family.name} is there already", "a name that no other family has")
        found[family.name] = family
    return found


def _registered(point: "EntryPoint") -> Family:
    """The family of an entry point. Raises UserError where it cannot be had."""
    try:
        family: Family = point.load()
    except Exception as error:
        raise _unusable(point, f"{type(error).__name__}: {error}", "a family that can be imported") from error
    return family


def _unusable(point: "EntryPoint", found: str, expected: str) -> UserError:
    brought = "" if point.dist is None else f" of {point.dist.name}"
    return UserError(
        f"{point.value}: the family{brought} cannot be used",
        found=found,
        expected=expected,
        do="mend it, or uninstall it",
    )


def family_named(name: str) -> Family:
    """The family of this name; an empty one is the unknown family's. Raises UserError where there is none."""
    if name == Unknown.name:
        # Nobody asks it for what makes a checkpoint or a session: it recognises none.
        return cast(Family, Unknown())
    found = families().get(name)
    if found is None:
        raise UserError(
            f"{name}: no such family of models",
            found=name,
            expected=f"one of {listed(sorted(families()))}",
            do=f"install what registers it under the entry point group {GROUP}",
        )
    return found


def family_in(folder: Path) -> Family | None:
    """The family whose checkpoint lies in a folder; None where none recognises it."""
    return next((family for family in families().values() if family.layout_of(folder)), None)


def _folders(path: Sequence[str]) -> list[pkgutil.ModuleInfo]:
    return [found for found in pkgutil.iter_modules(path) if found.ispkg]
