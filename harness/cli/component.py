"""`parity --component`: one component of both sides alone, on inputs recorded from the reference's session."""

from dataclasses import replace
from typing import TYPE_CHECKING

from waypoint_parity.harness.cli.outcome import exit_code, write_json

if TYPE_CHECKING:
    from waypoint_parity.harness.cli.parity import ParityCommand

# Units of each session, where no other number is asked for: enough for state that outlives one.
_UNITS = 2


def run_component(command: "ParityCommand", component: str) -> int:
    """Judge the component on every scenario of the command as it is recorded, print it and write it to --out."""
    from waypoint_parity.harness.cli.text.component import component_lines
    from waypoint_parity.harness.compare.exact.shadowed import load_shadowed
    from waypoint_parity.harness.files import writing
    from waypoint_parity.harness.judge.comparison import Verdict
    from waypoint_parity.harness.judge.component import component_parity
    from waypoint_parity.harness.judge.precision import LANES
    from waypoint_parity.harness.processes import computing_on
    from waypoint_parity.harness.run import registry
    from waypoint_parity.harness.run.adapter import each_side
    from waypoint_parity.harness.run.component import METHODS, ComponentAlone, recorded_calls

    run, cells = replace(command, as_recorded=True).prepare()
    with writing(run.out):
        run.out.mkdir(parents=True, exist_ok=True)
    checkpoint, worst = run.checkpoint, Verdict.IDENTICAL
    with computing_on(run.rules.threads):
        for cell in cells:
            ours, theirs = each_side(cell.numerics, run.rules.compiled)
            scenario = cell.scenario
            if command.swept.units is None:
                scenario = checkpoint.family.first_units(scenario, min(_UNITS, scenario.units))
            # Before the reference takes its time.
            candidate = registry.load(cell.candidate, checkpoint, theirs, methods=METHODS)
            recorded = recorded_calls(
                component, registry.load(run.rules.reference, checkpoint, ours), checkpoint, scenario
            )
            found = component_parity(
                (run.rules.reference, cell.candidate),
                load_shadowed(run.rules.reference, checkpoint, ours, lanes=LANES),
                ComponentAlone(candidate, recorded),
                recorded,
                scenario,
                cell.standards.judgement_of(scenario, checkpoint),
            )
            write_json(found, run.out / f"{component}.{cell.name}.json")
            print("\n".join(component_lines(found)))
            worst = max(worst, found.verdict, key=list(Verdict).index)
    return exit_code(worst)
