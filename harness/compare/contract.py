"""The contract: two runs are scored only if they were asked the same question."""

from collections.abc import Collection

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import Manifest

# What may differ on purpose, by the name that accepts it; and the inputs that this is, as implementations consume them.
ACCEPTABLE: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("noise", "button", "mouse", "scroll")},
    "controls": ("button", "mouse", "scroll"),
    **{name: (name,) for name in ("prompt_emb", "prompt_pad_mask", "image", "sigma", "timestamp")},
    "checkpoint": (),
    "dtype": (),
}
# The scenario has the schedule of all steps, a pass consumes the sigma of one.
_CONSUMED_AS = {"sigmas": "sigma"}


def accepted_sites(names: Collection[str]) -> frozenset[str]:
    """The input sites that may differ. Raises UserError for a name that accepts nothing."""
    return frozenset(f"input.{name}" for name in _accepted(names))


def unlike_models(candidate: Manifest, reference: Manifest, accepted: Collection[str] = ()) -> str | None:
    """Why the runs are not of one model in one precision, by their manifests; None where they are."""
    _accepted(accepted)
    pairs = {
        "checkpoint": (candidate.checkpoint_digest, reference.checkpoint_digest),
        "dtype": (candidate.numerics["dtype"], reference.numerics["dtype"]),
    }
    return _first_difference({name: pair for name, pair in pairs.items() if name not in accepted})


def unlike_inputs(candidate: Manifest, reference: Manifest, accepted: Collection[str] = ()) -> str | None:
    """Why the runs were not given the same, by their manifests; None where they were.

    What each side then consumed is compared by the `input.*` records, which also tell where it differs first.
    """
    inputs = _accepted(accepted)
    if candidate.inputs is not None and reference.inputs is not None:
        names = dict.fromkeys((*reference.inputs, *candidate.inputs))
        kept = [name for name in names if _CONSUMED_AS.get(name, name) not in inputs]
        return _first_difference({name: (candidate.inputs.get(name), reference.inputs.get(name)) for name in kept})
    pairs: dict[str, tuple[object, object]] = {}
    if "sigma" not in inputs:
        pairs["sigmas"] = (candidate.sigmas, reference.sigmas)
    if not inputs:
        pairs["scenario"] = (candidate.scenario_digest, reference.scenario_digest)
    return _first_difference(pairs)


def clock_shift(candidate: Collection[int], reference: Collection[int]) -> int:
    """By how much every frame number of the candidate is higher than the reference's; 0 where no one number says so."""
    shifts = {found - expected for found, expected in zip(sorted(candidate), sorted(reference), strict=False)}
    return shifts.pop() if len(shifts) == 1 and len(candidate) == len(reference) else 0


def _accepted(names: Collection[str]) -> set[str]:
    if unknown := [name for name in names if name not in ACCEPTABLE]:
        raise UserError(
            "nothing that could differ has this name",
            found=", ".join(unknown),
            expected=f"any of {', '.join(ACCEPTABLE)}",
            do="correct --accept-inputs",
        )
    return {given for name in names for given in ACCEPTABLE[name]}


def _first_difference(pairs: dict[str, tuple[object, object]]) -> str | None:
    for name, (found, expected) in pairs.items():
        if found != expected:
            return f"{name} differs: candidate {found or 'none'}, reference {expected or 'none'}"
    return None
