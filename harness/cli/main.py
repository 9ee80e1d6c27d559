"""The command line: the one place that puts the parts together, prints, and turns results into exit codes.

0: parity holds. 1: it does not. 2: the runs cannot be compared, or the call is wrong. 70: a fault of the harness.
"""

import sys
import traceback
from contextlib import suppress
from dataclasses import asdict
from functools import partial, singledispatch
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from waypoint_parity.harness.cli import options as arguments
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.processes import keep_memory

if TYPE_CHECKING:
    from waypoint_parity.harness.judge.comparison import Verdict

HOLDS, FAILS, UNUSABLE, OUR_FAULT = 0, 1, 2, 70


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv`, print its outcome and return the exit code."""
    command = arguments.parse(argv)
    keep_memory()
    try:
        return execute(command)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception:
        traceback.print_exc()
        print("this is a fault of waypoint-parity or of the adapter above, please report it", file=sys.stderr)
        return OUR_FAULT


# Each command imports what it needs: torch alone takes longer than parsing and `--help` together.


@singledispatch
def execute(command: object) -> int:
    """Run one parsed command and return its exit code."""
    raise TypeError(f"no command {command!r}")


@execute.register
def _dump(command: arguments.Dump) -> int:
    from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
    from waypoint_parity.harness.cli import given
    from waypoint_parity.harness.record.selection import Selection
    from waypoint_parity.harness.record.writer import DumpWriter, describe_run
    from waypoint_parity.harness.run import registry
    from waypoint_parity.harness.run.observer import check_observer
    from waypoint_parity.harness.run.scenario import read_scenario
    from waypoint_parity.harness.run.session import run
    from waypoint_parity.harness.run.taps import Recorder

    numerics = given.numerics(command.numerics)
    checkpoint, scenario = open_checkpoint(command.checkpoint), read_scenario(command.scenario)
    scenario.check(checkpoint.transformer)
    adapter = registry.load(command.implementation, checkpoint, numerics)
    allow, chosen = command.observing.allow_observer_effect, command.selecting
    selection = Selection(sites=chosen.sites, frames=chosen.frames, steps=chosen.steps, every=chosen.every)
    observer = check_observer(adapter, scenario, checkpoint.transformer, adapter.sites(), allow=allow)
    manifest = describe_run(
        command.implementation, adapter, numerics, checkpoint, scenario, selection=selection, observer=observer
    )
    # `--tensors` without a glob is everything.
    writer = DumpWriter(command.out, manifest, keep=() if command.tensors is None else command.tensors or ("*",))
    with writer, Recorder(adapter.sites(), writer, selection) as recorder:
        run(adapter, scenario, checkpoint.transformer, recorder)
    print(f"{command.out}: {manifest.observed} records of {manifest.expected} expected, {manifest.seconds:.1f} s")
    return HOLDS


@execute.register
def _diff(command: arguments.Diff) -> int:
    from waypoint_parity.harness.cli.text_comparison import comparison_lines
    from waypoint_parity.harness.judge.diff import diff_dumps, dtype_of, open_dump
    from waypoint_parity.harness.judge.standards import standards
    from waypoint_parity.harness.judge.truth_diff import with_truth

    reference, candidate = open_dump(command.reference), open_dump(command.candidate)
    run = reference.manifest
    folder, digest = Path(run.checkpoint_origin), run.checkpoint_digest
    judged_by = standards(command.judging, dtype_of(reference), folder=folder, digest=digest)
    seeded = "image" in (run.inputs or {})
    comparison = diff_dumps(reference, candidate, judged_by.judgement(run.sigmas, image=seeded))
    if command.truth is not None:
        comparison = with_truth(comparison, open_dump(command.truth), reference, candidate)
    print("\n".join(comparison_lines(comparison)))
    if command.json is not None:
        _write_json(comparison, command.json)
    return _exit_code(comparison.verdict)


@execute.register
def _parity(command: arguments.Parity) -> int:
    from waypoint_parity.harness.cli.planned import planned
    from waypoint_parity.harness.progress import counter
    from waypoint_parity.harness.sweep.parity import run_parity
    from waypoint_parity.reports.documents import write_documents
    from waypoint_parity.reports.terminal import summary_lines

    run, cells = planned(command)
    with counter(len(cells)) as announce:
        summary = run_parity(run, cells, announce)
    write_documents(summary, command.out)
    print("\n".join([*summary_lines(summary), f"details in {command.out}, report in {command.out / 'report.html'}"]))
    if summary.failures:
        return OUR_FAULT if any(failure.traceback for failure in summary.failures) else UNUSABLE
    return _exit_code(summary.verdict)


@execute.register
def _report(command: arguments.Report) -> int:
    from waypoint_parity.reports.report import write_report

    print(f"{write_report(command.run, command.out)}: written, and its Markdown twin beside it")
    return HOLDS


@execute.register
def _play(command: arguments.Play) -> int:
    from waypoint_parity.harness.families.waypoint.play.server import serving
    from waypoint_parity.harness.families.waypoint.play.stage import staged
    from waypoint_parity.reports.play import play_page

    with (
        staged(command) as stage,
        serving(stage.play, partial(play_page, asdict(stage.seen)), command.port) as address,
    ):
        print(f"{address} (Ctrl-C ends it, after the frame in work)", flush=True)
        with suppress(KeyboardInterrupt):
            Event().wait()
    return HOLDS


@execute.register
def _blame(command: arguments.Blame) -> int:
    from waypoint_parity.harness.cli import given
    from waypoint_parity.harness.explain.blame.exchanges import exchange_called
    from waypoint_parity.harness.explain.blame.journal import Journal
    from waypoint_parity.harness.explain.blame.result import BLAME_NAME
    from waypoint_parity.harness.explain.blame.search import Search
    from waypoint_parity.harness.explain.blame.text import blame_lines, ladder_lines
    from waypoint_parity.harness.progress import counter

    case = given.case(command)
    with counter() as announce:
        journal = Journal(command.out, case.identity, resume=command.resume, budget=command.budget, announce=announce)
        exchanges = [exchange_called(name, case.candidate.adapter.sites()) for name in command.exchange]
        search = Search(case, journal, gains=command.gains, gain_sites=command.gain_sites, exchanges=exchanges)
        blame = search.run()
    _write_json(blame, command.out / BLAME_NAME)
    print("\n".join([*blame_lines(blame), *(ladder_lines(blame) if command.ladder else [])]))
    return _exit_code(blame.comparison.verdict)


@execute.register
def _scorecard(command: arguments.Scorecard) -> int:
    from waypoint_parity.harness.cli.text_scorecard import scorecard_lines
    from waypoint_parity.harness.explain.scorecard.score import ScorecardPlan, score
    from waypoint_parity.harness.progress import counter

    plan = ScorecardPlan(command.suite, command.only, command.stacked, command.seed, command.sizes)
    with counter() as announce:
        card = score(plan, jobs=command.jobs, announce=announce)
    print("\n".join(scorecard_lines(card)))
    if command.json is not None:
        _write_json(card, command.json)
    return HOLDS if card else FAILS


@execute.register
def _floor(command: arguments.Floor) -> int:
    from waypoint_parity.harness.cli import given
    from waypoint_parity.harness.cli.text_floor import floor_lines
    from waypoint_parity.harness.judge.noise_floor.document import floor_path, write_floor
    from waypoint_parity.harness.judge.noise_floor.measure import measure_floor, seeds
    from waypoint_parity.harness.progress import progress

    sweep, numerics = given.sweep(command.swept), given.numerics(command.numerics)
    checkpoint = sweep.checkpoint
    out = command.out or floor_path(checkpoint.folder or Path(), numerics.dtype_name)
    kinds = sweep.kinds(seeds(command.first_seed, command.runs))
    floor = measure_floor(command.reference, checkpoint, numerics, kinds, progress)
    write_floor(floor, out)
    print("\n".join([f"{out}:", *floor_lines(floor)]))
    return HOLDS


@execute.register
def _ring(command: arguments.Ring) -> int:
    from waypoint_parity.harness.families.waypoint.rings.map import ring_map

    print("\n".join(ring_map(command.dump, command.layer)))
    return HOLDS


@execute.register
def _baseline(command: arguments.Baseline) -> int:
    from waypoint_parity.harness.cli.baseline import execute as execute_baseline

    lines, code = execute_baseline(command.action)
    print("\n".join(lines))
    return code


@execute.register
def _info(command: arguments.Info) -> int:
    from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
    from waypoint_parity.harness.checkpoint.inspection import inspect_checkpoint
    from waypoint_parity.harness.cli import given
    from waypoint_parity.harness.cli.text_checkpoint import checkpoint_lines
    from waypoint_parity.harness.run import registry

    if command.checkpoint is None:
        for name, point in sorted(registry.registered().items()):
            print(f"{name:16} {point.value}")
        return HOLDS
    checkpoint = open_checkpoint(command.checkpoint, check=False)
    against = None if command.against is None else open_checkpoint(command.against, check=False)
    numerics = given.numerics(command.numerics)
    inspection = inspect_checkpoint(checkpoint, command.implementation, against, numerics=numerics)
    print("\n".join(checkpoint_lines(checkpoint, inspection, all_keys=command.keys)))
    if command.json is not None:
        _write_json(inspection.to_json(), command.json)
    return HOLDS if inspection else FAILS


@execute.register
def _convert(command: arguments.Convert) -> int:
    from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
    from waypoint_parity.harness.checkpoint.convert import convert

    checkpoint = open_checkpoint(command.source)
    written = convert(checkpoint, command.to, command.out, force=command.force)
    outcome = f"{command.to} layout of" if written else "left as it is, holds already"
    print(f"{command.out}: {outcome} {checkpoint.origin}, digest {checkpoint.digest}")
    return HOLDS


@execute.register
def _scenario(command: arguments.Scenario) -> int:
    return execute(command.action)


@execute.register
def _scenario_make(command: arguments.ScenarioMake) -> int:
    from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
    from waypoint_parity.harness.cli.given import encoded_prompt
    from waypoint_parity.harness.cli.text_checkpoint import scenario_lines
    from waypoint_parity.harness.families.waypoint.make_scenario import DRAWN_TOKENS, make_scenario, read_image
    from waypoint_parity.harness.run.scenario import write_scenario

    scenario = make_scenario(
        open_checkpoint(command.checkpoint).transformer,
        name=command.out.stem,
        frames=command.frames,
        seed=command.seed,
        noise_policy=command.noise_policy,
        controls=command.controls,
        prompt_tokens=DRAWN_TOKENS if command.prompt_tokens is None else command.prompt_tokens,
        prompt_padding=command.prompt_padding,
        prompt=encoded_prompt(command),
        image=None if command.image is None else read_image(command.image),
    )
    write_scenario(scenario, command.out)
    print("\n".join(scenario_lines(scenario)))
    return HOLDS


@execute.register
def _scenario_show(command: arguments.ScenarioShow) -> int:
    from waypoint_parity.harness.cli.text_checkpoint import scenario_lines
    from waypoint_parity.harness.run.scenario import read_scenario

    print("\n".join(scenario_lines(read_scenario(command.scenario))))
    return HOLDS


def _write_json(value: object, path: Path) -> None:
    from waypoint_parity.harness.files import replacing
    from waypoint_parity.harness.record.records import to_json

    with replacing(path) as partial:
        partial.write_bytes(to_json(value))


def _exit_code(verdict: "Verdict") -> int:
    from waypoint_parity.harness.judge.comparison import Verdict

    if verdict is Verdict.INCOMPARABLE:
        return UNUSABLE
    return HOLDS if verdict.passes else FAILS


if __name__ == "__main__":
    sys.exit(main())
