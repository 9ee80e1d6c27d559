"""A parity run as the command line and its plan file give it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TypeVar

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.cli import given
from waypoint_parity.harness.cli import options as arguments
from waypoint_parity.harness.cli.options.shared import Swept
from waypoint_parity.harness.judge.standards import standards
from waypoint_parity.harness.processes import available_cores
from waypoint_parity.harness.run.adapter import DTYPES
from waypoint_parity.harness.sweep.cells import Cell, Conditions, plan
from waypoint_parity.harness.sweep.executors import Opening, dask, in_process, processes
from waypoint_parity.harness.sweep.factors import Factors
from waypoint_parity.harness.sweep.identity import Rules
from waypoint_parity.harness.sweep.parity import ParityRun
from waypoint_parity.harness.sweep.plan_file import PlanFile, read_plan

Level = TypeVar("Level")
# A process holds both implementations, in bf16 the reference in fp32 too; one more for what they compute with.
_COPIES = 4


def planned(command: arguments.Parity) -> tuple[ParityRun, list[Cell]]:
    """The run that the command line asks for, and its cells. Raises UserError for whatever cannot be used."""
    file = PlanFile() if command.plan is None else read_plan(command.plan)
    numerics, sweep = given.numerics(command.numerics), given.sweep(_swept(command.swept, file))
    checkpoint = sweep.checkpoint

    def conditions(dtype: str) -> Conditions:
        judged_by = standards(command.judging, dtype, folder=checkpoint.folder, digest=checkpoint.digest)
        return Conditions(dataclasses.replace(numerics, dtype=DTYPES[dtype]), judged_by)

    cells = plan(
        checkpoint,
        _factors(command, file, sweep),
        sweep.scenario,
        conditions,
        recorded=() if sweep.image is None else (sweep.image,),
        choice=file.choice,
    )
    rules = Rules(
        reference=file.reference or command.reference,
        threads=command.numerics.threads or 1,
        allow_observer_effect=command.observing.allow_observer_effect,
        teacher_forced=command.teacher_forced,
        three_way=command.three_way,
    )
    opening, at_once = _room(command, checkpoint, len(cells))
    run = ParityRun(checkpoint, rules, command.out, opening, at_once, fresh=command.fresh, blame=command.blame)
    return run, cells


def _swept(swept: Swept, file: PlanFile) -> Swept:
    named = {name: getattr(file, name) for name in ("checkpoint", "scenario", "image_scenario")}
    return dataclasses.replace(swept, **{name: value for name, value in named.items() if value is not None})


def _factors(command: arguments.Parity, file: PlanFile, sweep: given.Sweep) -> Factors:
    named = file.factors

    def levels(of_file: Sequence[Level] | None, of_flags: Sequence[Level]) -> Sequence[Level]:
        return of_flags if of_file is None else of_file

    prompted = sweep.checkpoint.transformer.prompt_conditioning is not None
    return Factors(
        implementations=levels(named.implementation, command.candidate),
        schedules=levels(named.schedule, sweep.schedules),
        seeds=levels(named.seed, command.seeds),
        masks=levels(named.mask, sweep.masks) if prompted else (None,),
        policies=levels(named.policy, command.noise_policies) or (None,),
        dtypes=levels(named.dtype, command.dtypes) or (command.numerics.dtype,),
        attentions=levels(named.attention, command.attentions),
    )


def _room(command: arguments.Parity, checkpoint: Checkpoint, cells: int) -> tuple[Opening, int]:
    """Where cells run, and how many are handed over at a time."""
    if command.scheduler is not None:
        return dask(command.scheduler), cells
    at_most = _fitting(checkpoint) if command.numerics.device == "cpu" else 1
    jobs = min(command.jobs or at_most, cells)
    return (in_process, 1) if jobs <= 1 else (processes(jobs), jobs)


def _fitting(checkpoint: Checkpoint) -> int:
    """How many processes have a core each, and memory for their models: the weights in fp32, _COPIES of them."""
    files = (checkpoint.transformer_files, checkpoint.autoencoder_files)
    parameters = sum(stored.parameters for weights in files for stored in weights.stored().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(available_cores(), memory // max(1, _COPIES * 4 * parameters)))
