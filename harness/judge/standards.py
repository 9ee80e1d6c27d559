"""Standards: what the runs of a checkpoint are judged by, for sessions of every kind."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.judgement import AS_REFERENCE, Bounds, Judgement, Tolerance, fixed_tolerance
from waypoint_parity.harness.judge.noise_floor.document import (
    FALSE_ALARM_RATE,
    NoiseFloor,
    floor_bounds,
    floor_path,
    read_floor,
)
from waypoint_parity.harness.run.family import Family, optional_fields

if TYPE_CHECKING:
    # Not imported otherwise: a diff of dumps does not load torch.
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
    from waypoint_parity.harness.run.scenario import Scenario


@dataclass(frozen=True)
class Standards:
    """A noise floor where there is one, a fixed tolerance where there is none, and what may differ or lack by name."""

    tolerance: Tolerance
    floor: NoiseFloor | None = None
    false_alarm_rate: float = FALSE_ALARM_RATE
    accepted_inputs: tuple[str, ...] = ()
    allowed_missing: tuple[str, ...] = ()
    precision: str = AS_REFERENCE

    @property
    def digest(self) -> str:
        """SHA-256 over everything that a judgement depends on, the floor's numbers included."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def judgement(self, sigmas: Sequence[float], given: Sequence[str]) -> Judgement:
        """How a session with these sigmas [S+1] is judged, whose scenario has the optional fields `given`."""
        return Judgement(self._bounds(sigmas, given), self.accepted_inputs, self.allowed_missing, self.precision)

    def judgement_of(self, scenario: "Scenario", checkpoint: "Checkpoint") -> Judgement:
        """How a session of `scenario` is judged, under its own schedule or that of the checkpoint."""
        family = checkpoint.family
        sigmas = family.sigmas(scenario, checkpoint.geometry)
        return self.judgement(sigmas, optional_fields(family, scenario.tensors))

    def _bounds(self, sigmas: Sequence[float], given: Sequence[str]) -> Bounds:
        if self.floor is None:
            return self.tolerance
        for session in self.floor.sessions:
            if session.sigmas == list(sigmas) and session.given == list(given):
                return floor_bounds(self.floor, session, self.false_alarm_rate, self.tolerance)
        kind = f"with {', '.join(given)}" if given else "without optional fields"
        return replace(self.tolerance, reason=f"the noise floor has no session {kind} under these sigmas")


def find_floor(folder: Path | None, digest: str, dtype: str, named: Path | None = None) -> NoiseFloor | str:
    """The floor `named`, else the one that travels with the checkpoint in `folder`; or why there is none.

    Raises UserError for a floor that is named and belongs to another checkpoint or dtype.
    """
    path = named or (None if folder is None else floor_path(folder, dtype))
    if path is None or (named is None and not path.is_file()):
        return "the checkpoint has no noise floor"
    floor = read_floor(path)
    found, expected = (floor.checkpoint_digest, floor.numerics.get("dtype")), (digest, dtype)
    if found == expected:
        return floor
    if named is None:
        return f"{path.name} was measured on another checkpoint or dtype"
    raise UserError(
        f"{path}: is the noise floor of other runs",
        found=f"checkpoint {found[0][:12]}, {found[1]}",
        expected=f"checkpoint {expected[0][:12]}, {expected[1]}",
        do="measure one on this checkpoint: waypoint-parity floor --help",
    )


def standards(
    family: Family,
    dtype: str,
    *,
    folder: Path | None,
    digest: str,
    floor: Path | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    tolerance: float | None = None,
    accepted_inputs: tuple[str, ...] = (),
    allowed_missing: tuple[str, ...] = (),
    precision: str = AS_REFERENCE,
) -> Standards:
    """What judges runs in `dtype` of the checkpoint in `folder`.

    A given `tolerance` comes first, then a given `floor`, then the floor that travels with the checkpoint. Raises
    UserError for a floor that cannot be used, and for a false-alarm rate that is none.
    """
    if not 0 < false_alarm_rate < 1:
        raise UserError(
            "no false-alarm rate",
            found=str(false_alarm_rate),
            expected="a probability between 0 and 1",
            do="correct --false-alarm-rate",
        )
    lifted = (accepted_inputs, allowed_missing, precision)
    if tolerance is not None:
        given = fixed_tolerance(family, dtype, activations=tolerance, reason="--tolerance")
        return Standards(given, None, false_alarm_rate, *lifted)
    found = find_floor(folder, digest, dtype, floor)
    fixed = fixed_tolerance(family, dtype)
    if isinstance(found, str):
        return Standards(replace(fixed, reason=found), None, false_alarm_rate, *lifted)
    return Standards(fixed, found, false_alarm_rate, *lifted)
