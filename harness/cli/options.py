"""Options that several commands share, and the values that they stand for."""

import math
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import SIDE_TIMEOUT

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.judge.standards import Standards
    from waypoint_parity.harness.run.adapter import Numerics
    from waypoint_parity.harness.run.family import Family
    from waypoint_parity.harness.run.scenario import Scenario


def also(*names: str) -> Any:
    """Other names of an option: one that takes several values is called as the one that takes one, or in the plural."""
    return tyro.conf.arg(aliases=names)


# Eleven days: of more milliseconds no system call takes the number.
_MOST_SECONDS = 1e6


@dataclass(frozen=True, kw_only=True)
class _NumericsOptions:
    """How implementations compute, compiled or not."""

    dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of weights and activations."""
    device: str = "cpu"
    """Device, as torch spells it: cpu, cuda, cuda:1."""
    threads: int | None = None
    """Threads of a CPU run, part of the run's identity. If not given: one for each cell of parity and each side of
    play, and the machine's choice in other commands."""
    trust_remote_code: bool = False
    """Run code that comes with a checkpoint (`diffusers`), from a pinned revision or a folder."""
    side_timeout: float = SIDE_TIMEOUT
    """Seconds that an implementation in a process of its own may be silent, and that one message of it may take."""

    def applied(self) -> "Numerics":
        """These numerics, uncompiled, after setting the thread count of this process.

        Raises UserError for an absent device.
        """
        from waypoint_parity.harness.run.adapter import DTYPES, Numerics, usable_device

        if self.threads is not None:
            _set_threads(self.threads)
        if not 0 < self.side_timeout <= _MOST_SECONDS:
            raise UserError(
                "--side-timeout is no time to wait",
                found=str(self.side_timeout),
                expected=f"seconds, more than 0 and up to {_MOST_SECONDS:g}",
                do="correct it, or leave it out",
            )
        device = usable_device(self.device)
        options = ("trust-remote-code",) if self.trust_remote_code else ()
        return Numerics(DTYPES[self.dtype], device, options=options, side_timeout=self.side_timeout)


@dataclass(frozen=True, kw_only=True)
class NumericsOptions(_NumericsOptions):
    """How an implementation computes."""

    compiled: bool = False
    """Let the implementation compile itself, where it can; a compiled part shows fewer sites."""

    def applied(self) -> "Numerics":
        """These numerics, after setting the thread count of this process. Raises UserError for an absent device."""
        return replace(super().applied(), compiled=self.compiled)


@dataclass(frozen=True, kw_only=True)
class PairNumericsOptions(_NumericsOptions):
    """How the two implementations compute."""

    compiled: tuple[Literal["reference", "candidate", "both"], ...] | None = None
    """Let this side compile itself, where it can; without a value, both. A compiled part shows fewer sites."""

    @property
    def compiled_sides(self) -> tuple[str, ...]:
        """The sides that compile themselves, reference first."""
        if self.compiled is None:
            return ()
        both = not self.compiled or "both" in self.compiled
        return tuple(side for side in ("reference", "candidate") if both or side in self.compiled)


@dataclass(frozen=True, kw_only=True)
class InterpreterOptions:
    """Interpreters of the two sides, where an engine needs packages of its own."""

    reference_python: Path | None = None
    """Run the reference in this Python, as in /path/venv/bin/python, and not in this process."""
    candidate_python: Path | None = None
    """Run the candidates in this Python, and not in this process. A file that imports nothing of waypoint-parity needs
    nothing of it there: its class is as harness/run/worker.py describes it."""

    def reference(self, implementation: str) -> str:
        """The reference of this name, in its own Python where one is given."""
        return _in_python(self.reference_python, implementation)

    def candidate(self, implementation: str) -> str:
        """The candidate of this name, in its own Python where one is given."""
        return _in_python(self.candidate_python, implementation)


def _in_python(python: Path | None, implementation: str) -> str:
    """The implementation as what a command line of another interpreter drives, where there is to be one.

    Raises UserError for what is no interpreter.
    """
    if python is None:
        return implementation
    from waypoint_parity.harness.run import worker

    # Not resolved: the link of a virtual environment is what tells it from the interpreter behind it.
    program = str(python.absolute())
    asked = "from importlib.util import find_spec; print(*(bool(find_spec(n)) for n in ('numpy', 'waypoint_parity')))"
    try:
        told = subprocess.run([program, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
        has_numpy, has_ours = (word == "True" for word in told)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{python}: cannot be used to run {implementation}",
            found=str(error),
            expected="a Python interpreter",
            do="give bin/python of an environment in which the engine is installed",
        ) from error
    if not has_numpy:
        raise UserError(
            f"{python}: has no NumPy",
            found="an environment without it",
            expected="NumPy, which carries tensors between processes",
            do=f"install it: {python} -m pip install numpy",
        )
    ours = has_ours and not _is_plain(implementation)
    serving = ["-m", "waypoint_parity", "worker"] if ours else [str(Path(worker.__file__))]
    return f"command: {shlex.join([program, *serving, implementation])}"


def _is_plain(implementation: str) -> bool:
    """Whether it is a file that imports nothing of ours: an engine as harness/run/worker.py describes it."""
    path = Path(implementation.rpartition(":")[0])
    try:
        return path.suffix == ".py" and "waypoint_parity" not in path.read_text()
    except (OSError, UnicodeDecodeError):
        return False


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What is run, and under which variants."""

    checkpoint: str | None = None
    """Checkpoint folder or hub id with its revision; else the small trained world, fixtures/world/checkpoint."""
    scenario: Path | None = None
    """Scenario that is swept over the levels; else fixtures/scenarios/right.safetensors."""
    image_scenario: Path | None = None
    """Another scenario, run as recorded, such as one seeded with an image; else, with no --scenario given,
    left.safetensors."""
    units: int | None = None
    """Run only so many units, such as frames, of a scenario: the first ones. All if not given."""
    schedule: Annotated[tuple[str, ...], also("--schedules")] = ()
    """Sigma schedules: by name, or as comma-separated values ending in 0. If not given, those that the family names."""
    prompt_mask: Annotated[tuple[str, ...], also("--prompt-masks")] = ()
    """Paddings of the prompt, where the model takes one; Waypoint: none, zeroed, unzeroed, all."""
    vary: tuple[str, ...] = ()
    """Levels of any other factor of the family, each as factor=level, such as `guidance=2.0 guidance=5.0`."""

    def opened(self) -> "SweepInputs":
        """What is swept over. Raises UserError for a checkpoint or scenario that cannot be read."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.run.scenario import read_scenario

        checkpoint = open_checkpoint(self.checkpoint or defaults.CHECKPOINT)
        scenario = read_scenario(self.scenario or defaults.SCENARIO)
        image = self.image_scenario
        if image is None and self.scenario is None:
            image = defaults.IMAGE_SCENARIO
        recorded = None if image is None else read_scenario(image)
        # As they are, too: a level can be drawn for a scenario that fits, and for no other.
        for given in (scenario, recorded):
            if given is not None:
                checkpoint.check_scenario(given)
        if self.units is None:
            return SweepInputs(checkpoint, scenario, recorded)
        first = partial(self._first, family=checkpoint.family)
        return SweepInputs(checkpoint, first(scenario), None if recorded is None else first(recorded))

    def _first(self, scenario: "Scenario", family: "Family") -> "Scenario":
        """The first units of a scenario."""
        units = self.units or 0
        if not 1 <= units <= scenario.units:
            raise UserError(
                f"--units {units}: {scenario.name} has no such beginning",
                found=f"{scenario.units} units",
                expected=f"a number from 1 to {scenario.units}",
                do="correct it, or leave it out",
            )
        return family.first_units(scenario, units)

    def levels(self, checkpoint: "Checkpoint", named: Mapping[str, Sequence[str]]) -> "dict[str, Sequence[str | None]]":
        """The levels of every factor of the checkpoint's family: as `named`, as the flags say, or its own.

        A factor that the model does not have keeps what the scenario has. Raises UserError for one that there is not.
        """
        family = checkpoint.family
        asked: dict[str, list[str]] = {}
        for factor, level in (_factor_and_level(pair) for pair in self.vary):
            asked.setdefault(factor, []).append(level)
        flags = {"schedule": self.schedule, "mask": self.prompt_mask}
        asked |= {factor: list(levels) for factor, levels in (*flags.items(), *named.items()) if levels}
        if unknown := sorted(asked.keys() - family.factors.keys()):
            raise UserError(
                f"{family.name} has no such factor",
                found=", ".join(unknown),
                expected=f"any of {', '.join(family.factors)}",
                do="correct its name, or leave its levels out",
            )
        return {
            name: asked.get(name) or factor.levels or (None,) if factor.applies(checkpoint.geometry) else (None,)
            for name, factor in family.factors.items()
        }


def _factor_and_level(pair: str) -> tuple[str, str]:
    factor, sign, level = pair.partition("=")
    if not factor or not sign or not level:
        raise UserError("no level of a factor", found=pair, expected="factor=level", do="correct --vary")
    return factor, level


@dataclass(frozen=True)
class SweepInputs:
    """What a sweep runs on: the scenario of its variants, and perhaps one that is run as recorded."""

    checkpoint: "Checkpoint"
    scenario: "Scenario"
    recorded: "Scenario | None"


@dataclass(frozen=True, kw_only=True)
class JudgingOptions:
    """What counts as parity: errors within the noise floor that travels with the checkpoint, where it has one."""

    floor: Path | None = None
    """Noise floor to judge by; else noise_floor.DTYPE.json of the checkpoint folder, if there is one."""
    false_alarm_rate: float = 1e-3
    """Share of right runs that may be called DIVERGED by a noise floor, over all sites of a run."""
    tolerance: float | None = None
    """Judge by this largest relative L2 error of an activation, and not by a noise floor."""
    accept_inputs: tuple[str, ...] = ()
    """What may differ on purpose, by name: an input, such as sigma or noise, checkpoint, or dtype. A name accepts that
    alone. The score then compares unequal runs."""
    allow_missing: tuple[str, ...] = ()
    """Sites that may be missing on one side, as globs such as `decoder.*`. Any other missing site fails the run."""

    precision: Literal["as-reference", "tf32", "fp16", "bf16"] = "as-reference"
    """What the candidate may cost on purpose: errors of a site by itself that rounding to it explains. Where exact
    values are known, its mathematics is to be the same all the same; elsewhere smaller mistakes pass."""

    def standards(self, family: "Family", dtype: str, *, folder: Path | None, digest: str) -> "Standards":
        """What judges runs in `dtype` of the checkpoint in `folder`. Raises UserError for what cannot be used."""
        from waypoint_parity.harness.judge.standards import standards

        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise UserError(
                "--tolerance is no bound",
                found=str(self.tolerance),
                expected="a number from 0 on",
                do="correct it",
            )
        return standards(
            family,
            dtype,
            folder=folder,
            digest=digest,
            floor=self.floor,
            false_alarm_rate=self.false_alarm_rate,
            tolerance=self.tolerance,
            accepted_inputs=self.accept_inputs,
            allowed_missing=self.allow_missing,
            precision=self.precision,
        )


def spelt(options: Any) -> list[str]:
    """What of these options is not as it is by default, as the words of a command line."""
    words = []
    for each in fields(options):
        value, name = getattr(options, each.name), each.name.replace("_", "-")
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if is_dataclass(value):
            words += spelt(value)
        elif value != default and isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value != default:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


@dataclass(frozen=True, kw_only=True)
class ObservingOptions:
    """What happens to a run that recording changes."""

    allow_observer_effect: bool = False
    """Go on even if the first pass gives different bits with all sites hooked than with one. The manifest says so."""


def _set_threads(threads: int) -> None:
    import torch

    if threads < 1:
        raise UserError(
            "threads cannot be set", found=str(threads), expected="at least 1", do="correct --threads, or leave it out"
        )
    torch.set_num_threads(threads)
