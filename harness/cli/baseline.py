"""The commands of the group `baseline`: each returns the lines to print, and the exit code."""

from functools import singledispatch
from pathlib import Path

from waypoint_parity.harness.cli import text_baseline as lines
from waypoint_parity.harness.cli.options.baseline import (
    BaselineAccept,
    BaselineCheck,
    BaselineList,
    BaselinePull,
    BaselinePush,
)
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.judge.diff import Dump, dtype_of
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.standards import standards
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.baseline import hub, store
from waypoint_parity.harness.sweep.baseline.check import Outcome, check
from waypoint_parity.harness.sweep.baseline.document import open_baseline
from waypoint_parity.harness.sweep.baseline.runs import open_run

Printed = tuple[list[str], int]
_DONE, _FAILS, _UNUSABLE = 0, 1, 2


@singledispatch
def execute(command: object) -> Printed:
    """Run one command of the group. Raises UserError for what it cannot use."""
    raise TypeError(f"no command {command!r}")


@execute.register
def _accept(command: BaselineAccept) -> Printed:
    accepted = store.accept(command.run, command.name, command.store, side=command.side, force=command.force)
    return lines.accepted_lines(accepted, command.store / command.name), _DONE


@execute.register
def _check(command: BaselineCheck) -> Printed:
    def judgement_of(dump: Dump) -> Judgement:
        run = dump.manifest
        folder, digest = Path(run.checkpoint_origin), run.checkpoint_digest
        judged_by = standards(command.judging, dtype_of(dump), folder=folder, digest=digest)
        return judged_by.judgement(run.sigmas, image="image" in (run.inputs or {}))

    baseline = open_baseline(command.store / command.name)
    result = check(baseline, open_run(command.run, command.side), judgement_of, command.accept_provenance)
    if command.json is not None:
        with replacing(command.json) as partial:
            partial.write_bytes(to_json(result))
    code = _DONE if result else _UNUSABLE if result.outcome is Outcome.STALE else _FAILS
    return lines.check_lines(result), code


@execute.register
def _list(command: BaselineList) -> Printed:
    return lines.stored_lines(store.stored(command.store)), _DONE


@execute.register
def _push(command: BaselinePush) -> Printed:
    pinned = hub.push(open_baseline(command.store / command.name), command.repo, force=command.force)
    return [f"{command.name}: waypoint-parity baseline pull {command.name} --repo {pinned}"], _DONE


@execute.register
def _pull(command: BaselinePull) -> Printed:
    pulled = hub.pull(command.name, command.repo, command.store, force=command.force)
    return lines.accepted_lines(pulled, command.store / command.name), _DONE
