"""What two dumps are expected to show of a session, by their manifests: of that which both recorded."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import cast

from waypoint_parity.harness.judge.ledger import Expected
from waypoint_parity.harness.record.records import Manifest
from waypoint_parity.harness.record.selection import EVERYTHING, Selection
from waypoint_parity.harness.run.keys import Key, Phase, is_input, is_optional


def expected_observations(reference: Manifest, candidate: Manifest) -> Expected:
    """How many frames show each (phase, step, site).

    Where a manifest does not tell the passes of its session: how many observations there are, which for two unlike
    selections nobody knows.
    """
    selections = [side.selection or EVERYTHING for side in (reference, candidate)]
    if reference.passes is None or reference.frames is None:
        return reference.expected if selections[0] == selections[1] else 0
    expected: dict[tuple[Phase, int, str], int] = {}
    lacked = _lacked(reference.passes, candidate.passes or reference.passes)
    for name, sites in reference.passes.items():
        phase, step = _pass_of(name)
        session = range(1 if phase in ("prompt", "image") else reference.frames)
        wanted = [site for site in sites if site not in lacked and all(side.wants(site) for side in selections)]
        outputs = [site for site in wanted if not is_input(site)]
        taken = _frames_taken(selections, phase, step, session, outputs[0]) if outputs else 0
        # Inputs are recorded in every frame.
        numbers = {(phase, step, site): len(session) if is_input(site) else taken for site in wanted}
        expected |= {rung: number for rung, number in numbers.items() if number}
    return expected


def _lacked(reference: Mapping[str, list[str]], candidate: Mapping[str, list[str]]) -> set[str]:
    """The optional sites of the reference that the candidate does not have."""
    expected, shown = (set(chain.from_iterable(passes.values())) for passes in (reference, candidate))
    return {site for site in expected - shown if is_optional(site)}


def _frames_taken(selections: Sequence[Selection], phase: Phase, step: int, session: range, site: str) -> int:
    """In how many frames of the session all of the selections take a site that they want."""
    return sum(all(side.takes(Key(frame, phase, step, site)) for side in selections) for frame in session)


def _pass_of(name: str) -> tuple[Phase, int]:
    """The phase and step of a pass by its name, as in "denoise0"."""
    phase = name.rstrip("0123456789")
    return cast(Phase, phase), int(name[len(phase) :] or 0)
