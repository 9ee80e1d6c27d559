"""Recording one implementation: a session of it becomes a dump, on demand with exact values beside it."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import ExactSink, load_shadowed
from waypoint_parity.harness.record.observer import check_observer
from waypoint_parity.harness.record.records import Manifest
from waypoint_parity.harness.record.selection import EVERYTHING, Selection
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import counting, run, steps
from waypoint_parity.harness.run.taps import recording


def record_session(
    implementation: str,
    checkpoint: Checkpoint,
    scenario: Scenario,
    numerics: Numerics,
    out: Path,
    *,
    selection: Selection = EVERYTHING,
    keep: Sequence[str] = (),
    lanes: int | None = None,
    allow_observer_effect: bool = False,
) -> Manifest:
    """Run a session of an implementation and write what its sites show into the folder `out`; returns the manifest.

    `keep`: globs of the sites whose full tensors are kept. `lanes`: follow the run exactly, with so many disturbed
    lanes. Raises UserError for a scenario that does not fit, and for a folder that holds other things.
    """
    checkpoint.check_scenario(scenario)
    shadowed = None if lanes is None else load_shadowed(implementation, checkpoint, numerics, lanes=lanes)
    adapter = registry.load(implementation, checkpoint, numerics) if shadowed is None else shadowed.adapter
    within = nullcontext() if shadowed is None else shadowed.shadow
    if shadowed is not None:
        shadowed.expect(scenario)
    stepped = tuple(dict.fromkeys(at.phase for at in steps(scenario, checkpoint) if at.step))
    selection = replace(selection, stepped=stepped)
    with within:
        observer = check_observer(adapter, scenario, checkpoint, adapter.sites(), allow=allow_observer_effect)
    manifest = describe_run(
        implementation, adapter, numerics, checkpoint, scenario, selection=selection, observer=observer
    )
    writer = DumpWriter(out, manifest, keep=keep)
    sink = writer if shadowed is None else ExactSink(writer, shadowed.shadow)
    with writer, recording(adapter.sites(), sink, selection, counting(scenario, checkpoint)) as taps, within:
        run(adapter, scenario, checkpoint, taps)
        if shadowed is not None and lanes is not None:
            writer.followed(lanes, shadowed.shadow.unfollowed)
    return manifest
