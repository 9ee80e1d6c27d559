"""The culprit: the causes of a sweep's first diverging cell, searched in its folder."""

from collections.abc import Callable, Mapping

import msgspec

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.case import load_case
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.result import BLAME_NAME, Blame, read_blame
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.explain.blame.text import causes_in_brief
from waypoint_parity.harness.explain.investigation.investigate import with_blame
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME, read_investigation
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.processes import computing_on
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.run_cell import CellTask
from waypoint_parity.harness.sweep.store import Store
from waypoint_parity.harness.sweep.summary import Summary

BLAME_FOLDER = "blame"


def find_culprit(
    summary: Summary, store: Store, tasks: Mapping[str, CellTask], announce: Callable[[str], None]
) -> Summary:
    """`summary` with the causes of the first cell that diverges, if any does.

    The search that an interrupted sweep left goes on where it was.
    """
    name = next((name for name, run in summary.variants.items() if run.verdict is Verdict.DIVERGED), None)
    if name is None:
        return summary
    folder = store.made(tasks[name].digest)
    try:
        blame = _searched(tasks[name], store, announce)
    except UserError as error:
        return msgspec.structs.replace(summary, not_blamed=f"{name}: {error.what} ({error.found})")
    family = tasks[name].checkpoint.family
    investigation = with_blame(read_investigation(folder / INVESTIGATION_NAME), blame, family)
    with replacing(folder / INVESTIGATION_NAME) as partial:
        partial.write_bytes(to_json(investigation))
    if not blame.causes:
        why = f"{name}: no part is off by more than noise in its values as computed; {summary.variants[name].first}"
        return msgspec.structs.replace(summary, not_blamed=why)
    born = None if investigation.birth is None else investigation.birth.place
    return msgspec.structs.replace(summary, blamed=name, causes=causes_in_brief(blame), born=born)


def _searched(task: CellTask, store: Store, announce: Callable[[str], None]) -> Blame:
    out = store.made(task.digest) / BLAME_FOLDER
    if (out / BLAME_NAME).is_file():
        return read_blame(out / BLAME_NAME)
    cell = task.cell
    with computing_on(task.rules.threads):
        case = load_case(
            task.rules.reference,
            cell.candidate,
            task.checkpoint,
            cell.numerics,
            cell.scenario,
            task.judgement,
            compiled=task.rules.compiled,
        )
        # All runs of the search depend on the cell's identity, which its folder is the address of.
        journal = Journal(out, case.identity, resume=True, announce=lambda run: announce(f"blame: {run}"))
        blame = Search(case, journal, gains=False).run()
    with replacing(out / BLAME_NAME) as partial:
        partial.write_bytes(to_json(blame))
    return blame
