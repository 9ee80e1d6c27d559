"""The contract: two runs are scored only if they were asked the same question."""

from collections.abc import Collection

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import Manifest
from waypoint_parity.harness.run.family import Family, family_named

# What may differ on purpose besides inputs.
_OF_THE_MODEL = ("checkpoint", "dtype")


def accepted_sites(names: Collection[str], family: Family) -> frozenset[str]:
    """The input sites that may differ. Raises UserError for a name that accepts nothing."""
    acceptable = (*family.sites.acceptable, *_OF_THE_MODEL)
    if unknown := [name for name in names if name not in acceptable]:
        raise UserError(
            "nothing that could differ has this name",
            found=", ".join(unknown),
            expected=f"any of {', '.join(acceptable)}",
            do="correct --accept-inputs",
        )
    return frozenset().union(*(family.sites.accepted(name) for name in names))


def unlike_models(candidate: Manifest, reference: Manifest, accepted: Collection[str] = ()) -> str | None:
    """Why the runs are not of one model in one precision, by their manifests; None where they are."""
    pairs = {
        "family": (candidate.family, reference.family),
        "checkpoint": _recorded(candidate.checkpoint_digest, reference.checkpoint_digest),
        "dtype": (candidate.numerics["dtype"], reference.numerics["dtype"]),
    }
    accepted_sites(accepted, family_named(reference.family))
    return _first_difference({name: pair for name, pair in pairs.items() if name not in accepted})


def unlike_inputs(candidate: Manifest, reference: Manifest, accepted: Collection[str] = ()) -> str | None:
    """Why the runs were not given the same, by their manifests; None where they were.

    What each side then consumed is compared by the `input.*` records, which also tell where it differs first.
    """
    family = family_named(reference.family)
    lifted = accepted_sites(accepted, family)
    if candidate.inputs is not None and reference.inputs is not None:
        names = dict.fromkeys((*reference.inputs, *candidate.inputs))
        kept = [name for name in names if shown_at(name, family) not in lifted]
        return _first_difference({name: (candidate.inputs.get(name), reference.inputs.get(name)) for name in kept})
    pairs: dict[str, tuple[object, object]] = {}
    scenarios = _recorded(candidate.scenario_digest, reference.scenario_digest)
    if not lifted.intersection(shown_at(name, family) for name, field in family.fields.items() if field.schedule):
        pairs["schedule"] = (candidate.sigmas, reference.sigmas) if all(scenarios) else (None, None)
    if not lifted:
        pairs["scenario"] = scenarios
    return _first_difference(pairs)


def _recorded(candidate: str, reference: str) -> tuple[str, str]:
    """Two digests; nothing where either was not recorded, which is neither equal nor unequal to anything."""
    return (candidate, reference) if candidate and reference else ("", "")


def unchecked(candidate: Manifest, reference: Manifest, *, inputs: bool) -> list[str]:
    """What of the contract could not be checked, because a dump does not record it.

    `inputs`: those that the sides consumed were compared.
    """
    sides = {"candidate": candidate, "reference": reference}
    found = []
    for what, field in (("checkpoint", "checkpoint_digest"), ("inputs", "scenario_digest")):
        lacking = [name for name, side in sides.items() if not getattr(side, field)]
        if lacking and not (inputs and what == "inputs"):
            dumps = "either dump" if len(lacking) == len(sides) else f"the {lacking[0]}'s dump"
            found.append(f"{what} not checked: not recorded in {dumps}")
    return found


def unlike_environments(candidate: Manifest, reference: Manifest) -> list[str]:
    """What rounds differently by itself, by their manifests: another release, processor, device or thread count."""
    pairs = {
        "torch": (candidate.torch, reference.torch),
        "device": (candidate.numerics.get("device"), reference.numerics.get("device")),
        "processor": (candidate.processor, reference.processor),
        "threads": (candidate.threads, reference.threads),
    }
    return [
        f"{name} differs: candidate {found}, reference {expected}; equal code need not give equal bits"
        for name, (found, expected) in pairs.items()
        if found and expected and found != expected
    ]


def shown_at(tensor: str, family: Family) -> str:
    """The input site that shows a tensor of the scenario as it was consumed."""
    field = family.fields.get(tensor)
    return f"input.{tensor}" if field is None or field.site is None else field.site


def clock_shift(candidate: Collection[int], reference: Collection[int]) -> int:
    """By how much the candidate numbers every unit higher than the reference does; 0 where no one number says so."""
    shifts = {found - expected for found, expected in zip(sorted(candidate), sorted(reference), strict=False)}
    return shifts.pop() if len(shifts) == 1 and len(candidate) == len(reference) else 0


def _first_difference(pairs: dict[str, tuple[object, object]]) -> str | None:
    for name, (found, expected) in pairs.items():
        if found != expected:
            return f"{name} differs: candidate {found or 'none'}, reference {expected or 'none'}"
    return None
