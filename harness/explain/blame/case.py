"""A case: two implementations that are to be told apart, and what they are run on."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.noise import rounded_otherwise
from waypoint_parity.harness.explain.blame.wiring import Wiring
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Hypothesis, Numerics, each_side
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import order_of
from waypoint_parity.harness.run.sites import SiteTable


@dataclass(frozen=True)
class Case:
    """`reference` and `candidate`, by name and loaded, on one scenario.

    An adapter drives one session at a time: where the reference is run twice at once, the second one is the `spare`.
    """

    reference: Side
    spare: Adapter
    candidate: Side
    rounded: Callable[[], Adapter]
    checkpoint: Checkpoint
    numerics: Numerics
    scenario: Scenario
    judgement: Judgement
    # The reference, loaded once more.
    fresh: Callable[[], Adapter]
    # The sides that compile themselves.
    compiled: tuple[str, ...] = ()
    # Mistakes to try besides those that the reference knows.
    own: tuple[Hypothesis, ...] = ()
    # What of the scenario is not searched, in words.
    left_out: tuple[str, ...] = ()

    @property
    def hypotheses(self) -> Sequence[Hypothesis]:
        """The mistakes that can be made in the reference, to see whether they are the candidate's."""
        return [*self.own, *getattr(type(self.reference.adapter), "HYPOTHESES", ())]

    @property
    def identity(self) -> dict[str, str]:
        """What the results of its runs depend on, but for the code of the implementations."""
        return {
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            "checkpoint": self.checkpoint.digest,
            "scenario": self.scenario.digest,
            "bounds": str(self.judgement.bounds.to_json()),
            "accepted inputs": ", ".join(self.judgement.accepted_inputs),
            "allowed missing": ", ".join(self.judgement.allowed_missing),
            **self.numerics.to_json(),
            "compiled": ", ".join(self.compiled),
            "tried": ", ".join(hypothesis.kind for hypothesis in self.own),
        }

    @property
    def family(self) -> Family:
        """The family of the model."""
        return self.checkpoint.family

    @cached_property
    def table(self) -> SiteTable:
        """All that is known of the sites of its sessions."""
        return self.family.table(self.checkpoint.geometry, self.scenario)

    @cached_property
    def wiring(self) -> Wiring:
        """Which errors can reach which sites."""
        return Wiring(self.family.parts, self.table, order_of(self.scenario, self.checkpoint))


def load_case(
    reference: str,
    candidate: str,
    checkpoint: Checkpoint,
    numerics: Numerics,
    scenario: Scenario,
    judgement: Judgement,
    *,
    changed: Callable[[Adapter], None] | None = None,
    compiled: Collection[str] = (),
    own: Sequence[Hypothesis] = (),
) -> Case:
    """The case of two implementations by name; the candidate as loaded, or `changed`. `compiled`: these sides are.

    `own`: mistakes to try besides those that the reference knows.

    Raises UserError for a name that is none and a scenario that does not fit.
    """
    checkpoint.check_scenario(scenario)
    expected, actual = each_side(numerics, compiled)
    side = registry.load(candidate, checkpoint, actual)
    if changed is not None:
        changed(side)
    left_out: tuple[str, ...] = ()
    recorded: int | None = getattr(side, "recorded_units", None)
    if recorded is not None and recorded < scenario.units:
        left_out = (f"units from {recorded} on: the dump did not record them all",)
        scenario = checkpoint.family.first_units(scenario, _some(recorded, candidate))
    return Case(
        Side(reference, registry.load(reference, checkpoint, expected)),
        registry.load(reference, checkpoint, expected),
        Side(candidate, side),
        lambda: rounded_otherwise(reference, checkpoint, expected),
        checkpoint,
        numerics,
        scenario,
        judgement,
        lambda: registry.load(reference, checkpoint, expected),
        tuple(compiled),
        tuple(own),
        left_out,
    )


def _some(units: int, candidate: str) -> int:
    if not units:
        raise UserError(
            f"{candidate}: cannot be searched",
            found="a dump without the first unit",
            expected="the first units, in which an error shows where it is made",
            do="dump them too: --frames 0 1 2",
        )
    return units
