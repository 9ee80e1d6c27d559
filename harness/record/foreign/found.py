"""What a source of another tool holds: values by their names there, and what it cannot tell."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.record.foreign.told import Told

# What names a process, such as proc4021, rank0, TP0_PP0_Rank0_pid77.
_PROCESS = re.compile(r"(?:proc|rank)(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Found:
    """One value, by what names it in its source; None for a number that the source does not tell.

    `name` has nothing in it that only the format adds.
    """

    name: str
    value: Tensor | Told
    phase: str | None = None
    frame: int | None = None
    step: int | None = None
    call: int | None = None
    sigma: float | None = None


def check_words(option: str, given: Iterable[str]) -> None:
    """Raise UserError where a word that was given with an option has nothing in it."""
    given = list(given)
    if not all(word.strip() for word in given):
        raise UserError(
            f"{option} names nothing", found=repr(given), expected="words that are not empty", do="correct it"
        )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is wanted of a source.

    `process` is the one of several whose values are read, `run` the one of several in one file, from 0.
    `repeats_told`: it was said what repeated records are. `units_along`, `steps_along`: globs of the names whose lists,
    or first axes, run over units, or over steps.
    """

    inputs: bool = False
    block_outputs: bool = False
    process: str | None = None
    run: int | None = None
    repeats_told: bool = False
    by_name: bool = False
    units_along: tuple[str, ...] = ()
    steps_along: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_words("--rank", [] if self.process is None else [self.process])
        check_words("--units-along", self.units_along)
        check_words("--steps-along", self.steps_along or ())
        if self.run is not None and self.run < 0:
            raise UserError(
                "--run is no run", found=str(self.run), expected="a run of the file, counted from 0", do="correct it"
            )

    def along_units(self, name: str) -> bool:
        """Whether a name's lists and first axis run over units."""
        return any(fnmatchcase(name, pattern) for pattern in self.units_along)

    def along_steps(self, name: str) -> bool:
        """Whether they run over steps, as was said."""
        return any(fnmatchcase(name, pattern) for pattern in self.steps_along or ())


@dataclass
class Notes:
    """What whoever compares an imported dump must know, gathered while the source is read."""

    lines: dict[str, None] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def say(self, line: str) -> None:
        """Note a sentence, once."""
        self.lines[line] = None

    def leave_out(self, kind: str, count: int = 1) -> None:
        """Count something that is not imported."""
        if count:
            self.left_out[kind] += count

    @property
    def all(self) -> list[str]:
        """Every sentence."""
        return [*self.lines, *(f"left out: {count} {kind}" for kind, count in self.left_out.items())]


def one_process(names: set[str], asked: Asked, source: object) -> str:
    """The one process whose values are read. Raises UserError where several were found and none is named."""
    wanted = asked.process
    chosen = {name for name in names if wanted is None or wanted in (name, *_PROCESS.findall(name))}
    if len(chosen) == 1:
        return chosen.pop()
    raise UserError(
        f"{source}: holds values of several processes" if wanted is None else f"{source}: no such process",
        found=listed(sorted(names)),
        expected="one process for each side" if wanted is None else f"one that is called {wanted}",
        do="name one of them with --rank; values of several are not merged",
    )
