"""Keys of what other tools recorded, by explicit rules: nobody guesses whether a repeat is a unit or a call."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import reading
from waypoint_parity.harness.record.foreign.found import Found, Notes, check_words
from waypoint_parity.harness.record.foreign.told import MOST
from waypoint_parity.harness.record.records import MOST_UNITS
from waypoint_parity.harness.run.keys import Key

Number = Literal["frame", "step", "call"]
# In a name, what separates it from branch and call.
_SEPARATORS = re.compile("[@#]")


@dataclass(frozen=True)
class Renames:
    """Replacements by regular expression, each applied to what the one before it made."""

    rules: Sequence[tuple[re.Pattern[str], str]] = ()

    @classmethod
    def read(cls, given: Sequence[str]) -> Self:
        """Rules `regex=replacement`, and files of such lines. Raises UserError for what is neither."""
        rules = []
        for text in given:
            if "=" in text:
                rules.append(_rule(text, "--rename"))
                continue
            path = Path(text)
            with reading(path):
                lines = path.read_text("utf-8", errors="replace").splitlines()
            numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
            rules += [_rule(line, f"{path}, line {number}") for number, line in numbered if line[0] != "#"]
        return cls(rules)

    def __call__(self, name: str) -> str:
        """The name in our words. Raises UserError for a replacement that names no group of its expression."""
        for pattern, replacement in self.rules:
            try:
                name = pattern.sub(replacement, name)
            except (re.error, IndexError) as error:
                raise _no_rule(f"{pattern.pattern}={replacement}", "--rename", str(error)) from error
        return name


def _rule(text: str, where: str) -> tuple[re.Pattern[str], str]:
    pattern, equals, replacement = _split(text)
    if not equals:
        raise _no_rule(text, where, "no =")
    try:
        return re.compile(pattern), replacement
    except re.error as error:
        raise _no_rule(text, where, str(error)) from error


def _split(text: str) -> tuple[str, str, str]:
    """Around the first = that has no backslash before it."""
    found = re.search(r"(?<!\\)=", text)
    return (text, "", "") if found is None else (text[: found.start()], "=", text[found.end() :])


def _no_rule(text: str, where: str, problem: str) -> UserError:
    return UserError(
        f"{where}: no rule for names",
        found=f"{text} ({problem})",
        expected="regex=replacement, as Python's re.sub takes them",
        do="correct it; a = within the regex is written \\=",
    )


@dataclass(frozen=True, kw_only=True)
class KeyRules:
    """Which numbers of a source are units and steps. What is neither stays what it is; a repeat is a call."""

    phase: str = "forward"
    units_from: Number | None = None
    steps_from: Number | None = None
    steps_per_unit: int | None = None
    branches: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_words("--phase", [self.phase])
        check_words("--branches", self.branches)
        if unreadable := [branch for branch in self.branches if "#" in branch]:
            raise UserError(
                "--branches cannot be read back", found=listed(unreadable), expected="names without #", do="correct it"
            )
        if self.steps_per_unit is not None and (self.steps_per_unit < 1 or self.units is not self.steps):
            raise UserError(
                "--steps-per-unit cannot be used so",
                found=f"{self.steps_per_unit}, units from {self.units}, steps from {self.steps}",
                expected="one number of the source that counts through all units, and at least 1 step in each",
                do="give --units-from and --steps-from the same value, or leave out one of them",
            )
        if self.steps_per_unit is None and self.units_from is not None and self.units_from == self.steps_from:
            raise UserError(
                "one number cannot be the unit and the step",
                found=f"--units-from {self.units_from} --steps-from {self.steps_from}",
                expected="two numbers, or how many steps a unit has",
                do="give --steps-per-unit too",
            )

    @property
    def units(self) -> Number:
        """The number of a source that counts units."""
        if self.units_from is not None:
            return self.units_from
        return "frame" if self.steps_per_unit is None else self.steps_from or "step"

    @property
    def steps(self) -> Number | None:
        """The number of a source that counts steps; None where units have taken it."""
        if self.steps_from is not None:
            return self.steps_from
        if self.steps_per_unit is not None:
            return self.units
        return None if self.units == "step" else "step"

    def key(self, found: Found, site: str, call: int) -> Key:
        """The key of what was found at a site, for the `call`-th time under the same numbers."""
        branch = ""
        if self.branches:
            call, number = divmod(call, len(self.branches))
            branch = self.branches[number]
        numbers: dict[Number | None, int] = {"frame": found.frame or 0, "step": found.step or 0, "call": call, None: 0}
        unit, step = numbers[self.units], numbers[self.steps]
        if self.steps_per_unit is not None:
            unit, step = divmod(unit, self.steps_per_unit)
        used = "call" in (self.units, self.steps)
        return Key(unit, phase_name(found.phase or self.phase), step, site, branch, 0 if used else call)


def phase_name(text: str) -> str:
    """A phase by a name that keys can have: no slash, and no digit at its end."""
    name = text.replace("/", ".") or "forward"
    return f"{name}_" if name[-1].isdigit() else name


@dataclass
class Keys:
    """The keys of what is found, one after the other."""

    rules: KeyRules
    renames: Renames
    _counted: Counter[tuple[object, ...]] = field(default_factory=Counter)
    _names: dict[Key, str] = field(default_factory=dict)

    def of(self, found: Found, notes: Notes) -> Key | None:
        """The key of what was found; None where its name was replaced by nothing.

        A name that reads like `u0/denoise1/SITE` is a key as it stands. Raises UserError where two values have one key.
        """
        # Half of a character, which JSON may hold, has no bytes.
        name = self.renames(found.name.encode("utf-8", "replace").decode())
        if not name:
            notes.leave_out("values whose names --rename removed")
            return None
        key = Key.parse(name) or self._counted_key(found, _SEPARATORS.sub("_", name))
        if not (0 <= key.unit < MOST_UNITS and 0 <= min(key.step, key.call) <= max(key.step, key.call) < MOST):
            raise UserError(
                f"{found.name}: there is no such unit, step or call",
                found=f"unit {key.unit}, step {key.step}, call {key.call}",
                expected=f"numbers from 0 on, and less than {MOST_UNITS} units",
                do="correct --units-from and --steps-from, or the number in the name",
            )
        if key in self._names:
            raise UserError(
                f"{found.name}: two values have one name",
                found=f"{key}, which is also that of {self._names[key]}",
                expected="a name for each value of a step",
                do="correct --rename, or the rules for units and steps",
            )
        self._names[key] = found.name
        return key

    def _counted_key(self, found: Found, site: str) -> Key:
        under = (found.phase, found.frame, found.step, site, found.name)
        call = self._counted[under] if found.call is None else found.call
        self._counted[under] += 1
        return self.rules.key(found, site, call)
