"""The commands on sweeps: run and judge every cell, write the report of a run."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from waypoint_parity.harness.cli import defaults
from waypoint_parity.harness.cli.component import run_component
from waypoint_parity.harness.cli.options import (
    InterpreterOptions,
    JudgingOptions,
    ObservingOptions,
    PairNumericsOptions,
    SweepInputs,
    SweepOptions,
    also,
    spelt,
)
from waypoint_parity.harness.cli.outcome import HOLDS, OUR_FAULT, UNUSABLE, exit_code
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import available_cores

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.sweep.cells import Cell
    from waypoint_parity.harness.sweep.executors import Opening
    from waypoint_parity.harness.sweep.factors import Factors
    from waypoint_parity.harness.sweep.parity import ParityRun
    from waypoint_parity.harness.sweep.plan_file import PlanFile

# Where a run lies, unless another folder is named.
OUT = Path("reports/out/parity")
# A process holds both implementations, in bf16 the reference in fp32 too; one more for what they compute with.
_COPIES = 4


@dataclass(frozen=True, kw_only=True)
class ParityCommand:
    """Run reference and candidate over every cell of a sweep, and judge each.

    It is what `nox -s parity` runs.

    Cells that an earlier run in --out has made already, with the same inputs, checkpoint and code, are not run again: a
    sweep that was killed goes on where it was.

    Example: waypoint-parity parity --candidate my_port.py:MyPort --schedule checkpoint --seed 11

    Before there is a pipeline: waypoint-parity parity --candidate my_port.py:MyPort --component vae
    """

    reference: str = "eager"
    """The implementation that is right."""
    candidate: tuple[str, ...] = ("candidate",)
    """The implementations to judge, one or several."""
    interpreters: tyro.conf.OmitArgPrefixes[InterpreterOptions] = field(default_factory=InterpreterOptions)
    swept: tyro.conf.OmitArgPrefixes[SweepOptions] = field(default_factory=SweepOptions)
    seed: Annotated[tuple[int, ...], also("--seeds")] = ()
    """Noise seeds; if not given, those that the family names."""
    noise_policy: Annotated[tuple[str, ...], also("--noise-policies")] = ()
    """How noise is drawn from a seed; as in the scenario if not given. Waypoint: per-frame, global, sliced."""
    dtypes: tuple[Literal["fp32", "bf16"], ...] = ()
    """Precisions to sweep over, in place of --dtype."""
    attention: Annotated[tuple[str, ...], also("--attentions")] = ("own",)
    """Formulations of the candidate's attention: options of the implementation, `own` for none."""
    plan: Path | None = None
    """TOML file: reference, checkpoint, scenario, levels of [factors], cells to run ([[only]]) or not ([[exclude]]).
    Its values take the place of the flags."""
    jobs: int | None = None
    """Cells at once, each in a process of its own. If not given: on a CPU one for each core, as far as the memory
    holds their models; on an accelerator one. Each has one thread unless --threads says differently."""
    scheduler: str | None = None
    """Run cells on the Dask cluster of this scheduler instead, such as tcp://host:8786 (needs the extra `dask`)."""
    component: str | None = None
    """Run this component of the model alone, such as transformer or vae, on inputs that are recorded from the
    reference's session; the candidate need not have any other. The scenario is not varied, and has two units unless
    --units says differently. Told are also the atol and rtol of torch.testing.assert_close that would have passed."""
    as_recorded: bool = False
    """Run the scenario as it is, without a sweep: for a dump in a candidate's place (dump:FOLDER), or one session."""
    fresh: bool = False
    """Run cells again that have been made already."""
    blame: bool = True
    """Search the causes of the first cell that diverges; takes some ten sessions of it."""
    three_way: bool = True
    """In bf16, also tell how far either side is from the reference in fp32; costs a third run, and decides nothing."""
    exact: bool = True
    """Follow both sides in fp64 beside their own arithmetic, and tell other mathematics from other precision by it;
    takes about four times as long. Otherwise errors are judged by the noise floor or by tolerances."""
    teacher_forced: bool = False
    """Run each variant a second time with the candidate's caches and latents following the reference after every unit.
    What still differs then is the fault of the unit itself."""
    out: Path = OUT
    """Folder of the run: a folder per cell, summary.json, summary.md, junit.xml, report.html and report.md."""
    observing: tyro.conf.OmitArgPrefixes[ObservingOptions] = field(default_factory=ObservingOptions)
    numerics: tyro.conf.OmitArgPrefixes[PairNumericsOptions] = field(default_factory=PairNumericsOptions)
    judging: tyro.conf.OmitArgPrefixes[JudgingOptions] = field(default_factory=JudgingOptions)

    def run(self) -> int:
        """Run the sweep, write its documents and print the summary."""
        from waypoint_parity.harness.progress import counter
        from waypoint_parity.harness.sweep.parity import run_parity
        from waypoint_parity.reports.documents import remove_documents, write_documents
        from waypoint_parity.reports.terminal import summary_lines

        if self.component is not None:
            return run_component(self, self.component)
        run, cells = self.prepare()
        remove_documents(self.out)
        with counter(len(cells)) as announce:
            summary = run_parity(run, cells, announce)
        write_documents(summary, self.out)
        lines = [*summary_lines(summary), f"details in {self.out}, report in {self.out / 'report.html'}"]
        if (failing := next((name for name in summary.cells if not summary.verdict_of(name).passes), None)) is not None:
            lines.append(
                f"causes: {shlex.join(['waypoint-parity', 'blame', '--cell', failing, '--run', str(self.out)])}"
            )
        print("\n".join(lines))
        if summary.failures:
            return UNUSABLE if all(failure.mistake for failure in summary.failures) else OUR_FAULT
        return exit_code(summary.verdict)

    def prepare(self) -> "tuple[ParityRun, list[Cell]]":
        """The run that is asked for, and its cells. Raises UserError for whatever cannot be used."""
        from waypoint_parity.harness.run.adapter import DTYPES
        from waypoint_parity.harness.sweep import cells as sweep
        from waypoint_parity.harness.sweep.identity import Rules
        from waypoint_parity.harness.sweep.parity import ParityRun
        from waypoint_parity.harness.sweep.plan_file import PlanFile, read_plan

        plan = PlanFile() if self.plan is None else read_plan(self.plan)
        asked = _with_plan(self, plan)
        candidates = tuple(asked.interpreters.candidate(name) for name in asked.candidate)
        asked = replace(asked, reference=asked.interpreters.reference(asked.reference), candidate=candidates)
        numerics, inputs = asked.numerics.applied(), asked.swept.opened()
        checkpoint = inputs.checkpoint
        if not asked.as_recorded:
            _check_sweepable(asked.candidate)

        def conditions(dtype: str) -> "sweep.Conditions":
            standards = asked.judging.standards(
                checkpoint.family, dtype, folder=checkpoint.folder, digest=checkpoint.digest
            )
            return sweep.Conditions(replace(numerics, dtype=DTYPES[dtype]), standards)

        cells = sweep.plan(
            checkpoint,
            _factors(asked, plan, checkpoint),
            inputs.scenario,
            conditions,
            recorded=() if inputs.recorded is None else (inputs.recorded,),
            choice=plan.choice,
        )
        rules = Rules(
            reference=asked.reference,
            threads=asked.numerics.threads or 1,
            allow_observer_effect=asked.observing.allow_observer_effect,
            teacher_forced=asked.teacher_forced,
            three_way=asked.three_way,
            exact=asked.exact,
            compiled=asked.numerics.compiled_sides,
        )
        cells = [replace(cell, command=_alone(asked, cell, inputs)) for cell in cells]
        opening, at_once = _executor(asked, checkpoint, len(cells))
        run = ParityRun(checkpoint, rules, asked.out, opening, at_once, fresh=asked.fresh, blame=asked.blame)
        return run, cells


def _check_sweepable(candidates: Sequence[str]) -> None:
    """Raise UserError for a candidate of which there is one session only."""
    from waypoint_parity.harness.run import registry

    found = {name: registry.find(registry.split_options(name)[0]) for name in candidates}
    recorded = [name for name, adapter in found.items() if getattr(adapter, "RECORDED", False)]
    if recorded:
        raise UserError(
            f"{recorded[0]}: cannot be swept",
            found="a sweep over schedules, seeds and prompts",
            expected="the one scenario that was recorded",
            do="give it with --scenario, and --as-recorded",
        )


# The options of these factors; those of any other are told by --vary.
_OPTIONS = {"schedule": "schedule", "mask": "prompt_mask", "seed": "seed", "policy": "noise_policy"}


def _alone(command: ParityCommand, cell: "Cell", inputs: "SweepInputs") -> tuple[str, ...]:
    """The words of a command that runs this cell alone."""
    swept, levels = command.swept, dict(cell.variant.levels)
    scenario, recorded = swept.scenario or defaults.SCENARIO, swept.image_scenario or defaults.IMAGE_SCENARIO
    is_recorded = not levels and inputs.recorded is not None and cell.factors["scenario"] == inputs.recorded.name
    named = {option: (level,) for factor, level in levels.items() if (option := _OPTIONS.get(factor)) is not None}
    vary = tuple(f"{factor}={level}" for factor, level in levels.items() if factor not in _OPTIONS)
    alone = replace(
        command,
        candidate=(cell.candidate,),
        interpreters=InterpreterOptions(),
        swept=SweepOptions(
            checkpoint=swept.checkpoint or str(defaults.CHECKPOINT),
            scenario=recorded if is_recorded else scenario,
            units=swept.units,
            schedule=named.get("schedule", ()),
            prompt_mask=named.get("prompt_mask", ()),
            vary=vary,
        ),
        seed=tuple(int(seed) for seed in named.get("seed", ())),
        noise_policy=named.get("noise_policy", ()),
        attention=("own",),
        dtypes=(),
        plan=None,
        jobs=None,
        scheduler=None,
        as_recorded=not levels,
        fresh=False,
        blame=True,
        out=OUT,
        numerics=replace(command.numerics, dtype="bf16" if cell.numerics.dtype_name == "bf16" else "fp32"),
    )
    return ("parity", *spelt(alone))


def _with_plan(command: ParityCommand, plan: "PlanFile") -> ParityCommand:
    """`command` with what the plan names in place of the flags."""
    swept = {
        "checkpoint": plan.checkpoint,
        "scenario": None if plan.scenario is None else Path(plan.scenario),
        "image_scenario": None if plan.image_scenario is None else Path(plan.image_scenario),
    }
    flags = {
        "reference": plan.reference,
        "candidate": plan.levels("implementation"),
        "dtypes": plan.levels("dtype"),
        "attention": plan.levels("attention"),
        "swept": replace(command.swept, **_named(swept)),
    }
    return replace(command, **_named(flags))


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a plan gives, lists of them as options hold them."""
    given = {name: value for name, value in values.items() if value is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def _factors(command: ParityCommand, plan: "PlanFile", checkpoint: "Checkpoint") -> "Factors":
    from waypoint_parity.harness.sweep.factors import ATTENTION, DTYPE, IMPLEMENTATION, Factors

    if command.as_recorded:
        return Factors(command.candidate, {}, command.dtypes or (command.numerics.dtype,), command.attention)
    flags = {"seed": [str(seed) for seed in command.seed], "policy": list(command.noise_policy)}
    planned = {name: plan.levels(name) or [] for name in plan.factors if name not in (IMPLEMENTATION, DTYPE, ATTENTION)}
    return Factors(
        implementations=command.candidate,
        varied=command.swept.levels(checkpoint, {**flags, **planned}),
        dtypes=command.dtypes or (command.numerics.dtype,),
        attentions=command.attention,
    )


def _executor(command: ParityCommand, checkpoint: "Checkpoint", cells: int) -> "tuple[Opening, int]":
    """Where cells run, and how many are handed over at a time."""
    from waypoint_parity.harness.sweep.executors import dask, in_process, processes

    if command.scheduler is not None:
        return dask(command.scheduler), cells
    at_most = _fitting(checkpoint) if command.numerics.device == "cpu" else 1
    jobs = min(command.jobs or at_most, cells)
    return (in_process, 1) if jobs <= 1 else (processes(jobs), jobs)


def _fitting(checkpoint: "Checkpoint") -> int:
    """How many processes have a core each, and memory for their models: the weights in fp32, _COPIES of them."""
    parameters = sum(stored.parameters for files in checkpoint.files.values() for stored in files.stored().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(available_cores(), memory // max(1, _COPIES * 4 * parameters)))


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Write the report of a run: one HTML file, and its Markdown twin.

    Example: waypoint-parity report reports/out/parity
    """

    run_folder: tyro.conf.Positional[Path] = OUT
    """Folder that `parity` wrote."""
    cell: str | None = None
    """Write the report of this cell alone, named as in the table that `parity` prints."""
    out: Path | None = None
    """HTML file to write; else report.html in the run's folder, or CELL.html there."""

    def run(self) -> int:
        """Write the report."""
        from waypoint_parity.reports.report import write_report

        out = self.out if self.cell is None or self.out is not None else self.run_folder / f"{self.cell}.html"
        print(f"{write_report(self.run_folder, out, self.cell)}: written, and its Markdown twin beside it")
        return HOLDS
