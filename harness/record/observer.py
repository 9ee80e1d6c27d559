"""The observer check: whether recording changes what is computed, found by running the first pass without hooks."""

from collections.abc import Mapping

from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.statistics import Measurements
from waypoint_parity.harness.run.adapter import Adapter, Site
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import passes
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation, recording
from waypoint_parity.harness.run.worker import exact_arithmetic

NO_EFFECT = "bit-identical"
OUTLIVES = "recorded a second time it differs, too: a clock, a cache or a memory is kept, or it is not deterministic"


class _LastSeen:
    """A sink that takes the statistics of everything, as a dump does, and keeps the last tensor."""

    def __init__(self) -> None:
        self.key: Key | None = None
        self.tensor: Tensor | None = None
        self._measurements = Measurements()

    def observe(self, seen: Observation) -> None:
        self._measurements.add(seen.tensor)
        # The implementation may reuse its own.
        self.key, self.tensor = seen.key, seen.tensor.detach().clone()

    def end_pass(self) -> None:
        self._measurements.fetch()


def check_observer(
    adapter: Adapter, scenario: Scenario, checkpoint: Checkpoint, sites: Mapping[str, Site], *, allow: bool = False
) -> str:
    """What a manifest says of the observer: NO_EFFECT, or the effect where `allow`, else a UserError that names it."""
    effect = observer_effect(adapter, scenario, checkpoint, sites)
    if effect is not None and not allow:
        raise UserError(
            "something outlives a session"
            if OUTLIVES in effect
            else "recording changes what the implementation computes",
            found=effect,
            expected="the same bits from the first pass with every site hooked and with one",
            do="correct the adapter's sites, or leave sites out with --sites; an implementation that is not "
            "deterministic needs --allow-observer-effect, and its dump then says so",
        )
    return effect or NO_EFFECT


@exact_arithmetic()
def observer_effect(
    adapter: Adapter, scenario: Scenario, checkpoint: Checkpoint, sites: Mapping[str, Site]
) -> str | None:
    """What the hooks on `sites` change in the last tensor of the first pass; None where not a bit.

    The session is begun twice, up to and including its first pass of the transformer: with all sites hooked and their
    statistics taken, and with nothing hooked but the site that was seen last.
    """
    watched = _first_pass(adapter, scenario, checkpoint, sites)
    if watched.key is None or watched.tensor is None:
        return "the first pass shows none of its sites, so that nothing can be compared"
    last = watched.key.site
    alone = _first_pass(adapter, scenario, checkpoint, {last: sites[last]})
    if alone.key != watched.key or alone.tensor is None:
        return f"{watched.key} is the last site of the first pass, by itself {alone.key}"
    effect = _difference(watched.key, watched.tensor.cpu(), alone.tensor.cpu())
    if effect is None:
        return None
    again = _first_pass(adapter, scenario, checkpoint, sites)
    if again.tensor is not None and _difference(watched.key, watched.tensor.cpu(), again.tensor.cpu()) is None:
        return effect
    return f"{effect}; {OUTLIVES}"


def _first_pass(adapter: Adapter, scenario: Scenario, checkpoint: Checkpoint, sites: Mapping[str, Site]) -> _LastSeen:
    """What `sites` show until the first pass of the transformer is over."""
    seen, computed = _LastSeen(), False
    table = checkpoint.family.table(checkpoint.geometry, scenario)
    with recording(sites, seen) as taps:
        for _, at in passes(adapter, scenario, checkpoint, taps):
            if computed:
                break
            # What comes before is only given: a pass of the model makes something of it.
            computed = any(row.kind is not Kind.INPUT for row, _ in table.shown(at.phase, at.step, at.branches))
    return seen


def _difference(key: Key, watched: Tensor, alone: Tensor) -> str | None:
    if watched.shape != alone.shape or watched.dtype != alone.dtype:
        return f"{key}: {watched.dtype} {list(watched.shape)}, without hooks {alone.dtype} {list(alone.shape)}"
    if fast_digest(watched) == fast_digest(alone):
        return None
    largest = float((watched.double() - alone.double()).abs().max())
    return f"{key}: {int((watched != alone).sum())} of {watched.numel()} elements differ, by up to {largest:.2e}"
