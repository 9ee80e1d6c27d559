"""Provenance: what a dump was made under. Where it differs, a difference of the numbers accuses nobody."""

import re
from collections.abc import Collection, Mapping

import msgspec

from waypoint_parity.harness.compare.contract import shown_at
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import Manifest
from waypoint_parity.harness.run.family import Family, family_named

# What can differ, by the name that accepts it; "backend" is the group of all "backend.*".
GROUPS = (
    "checkpoint",
    "schedule",
    "noise",
    "inputs",
    "scenario",
    "selection",
    "dtype",
    "torch",
    "backend",
    "threads",
    "source",
)
# What an implementation says of itself means nothing to another one.
_OWN = ("source.", "backend.attention", "backend.options")
# The release of a Linux kernel changes every week, and no number with it; the processor and the C library may.
_LINUX = re.compile(r"Linux-.+-(?P<machine>[^-]+)-with-(?P<library>.+)")


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs in the provenance of a baseline and of a run, and both values; None where a side has none."""

    name: str
    baseline: str | None
    run: str | None

    def __str__(self) -> str:
        """One line, both values in full."""
        return f"{self.name}: baseline {self.baseline or 'none'}, run {self.run or 'none'}"


def provenance(manifest: Manifest) -> dict[str, str]:
    """Everything that a dump's numbers depend on, by name, but the commit of this repository."""
    facts = {
        "checkpoint": manifest.checkpoint_digest,
        "schedule": ", ".join(f"{sigma:.9g}" for sigma in manifest.sigmas),
        **_inputs(manifest),
        "selection": "everything" if manifest.selection is None else msgspec.json.encode(manifest.selection).decode(),
        "dtype": manifest.numerics["dtype"],
        "torch": manifest.torch,
        **{f"backend.{name}": value for name, value in manifest.numerics.items() if name != "dtype"},
        "backend.platform": _LINUX.sub(r"Linux \g<machine>, \g<library>", manifest.platform),
        "backend.processor": manifest.processor or "",
        "threads": str(manifest.threads),
    }
    for name, value in manifest.description.items():
        facts["backend.attention" if name == "attention" else f"source.{name}"] = value
    # An empty value, as of no options, says what an absent one does.
    return {name: value for name, value in facts.items() if value}


def _inputs(manifest: Manifest) -> dict[str, str]:
    """The digests of what was given; of the whole scenario where an engine tells no more."""
    if manifest.inputs is None:
        return {"scenario": manifest.scenario_digest}
    family = family_named(manifest.family)
    # The schedule stands there too, as itself.
    scheduled = {name for name, field in family.fields.items() if field.schedule}
    return {_called(name, family): digest for name, digest in manifest.inputs.items() if name not in scheduled}


def _called(tensor: str, family: Family) -> str:
    field = family.fields.get(tensor)
    if field is None or not field.drawn:
        return f"inputs.{tensor}"
    return tensor if tensor in GROUPS else f"noise.{tensor}"


def differences(baseline: Mapping[str, str], run: Mapping[str, str], *, same_implementation: bool) -> list[Difference]:
    """What differs between the provenance of a baseline and of a run, in the order in which they tell it."""
    names = dict.fromkeys((*baseline, *run))
    kept = [name for name in names if same_implementation or not name.startswith(_OWN)]
    return [
        Difference(name=name, baseline=baseline.get(name), run=run.get(name))
        for name in kept
        if baseline.get(name) != run.get(name)
    ]


def lifts(accepted: Collection[str], difference: Difference) -> bool:
    """Whether one of the names that are accepted is that of the difference, or of its group."""
    return difference.name in accepted or difference.name.partition(".")[0] in accepted


def check_accepted(names: Collection[str]) -> None:
    """Raise UserError for a name that accepts nothing."""
    if unknown := [name for name in names if name.partition(".")[0] not in GROUPS]:
        raise UserError(
            "nothing in the provenance has this name",
            found=", ".join(unknown),
            expected=f"any of {', '.join(GROUPS)}, or one of a group, as in backend.device",
            do="correct --accept-provenance",
        )


def accepted_inputs(differing: Collection[Difference], family: Family) -> tuple[str, ...]:
    """What a comparison must let differ where these differences of the provenance are accepted."""
    names = {of.name for of in differing}
    fields = [
        name
        for name, field in family.fields.items()
        if "scenario" in names or _called(name, family) in names or (field.schedule and "schedule" in names)
    ]
    sites = {shown_at(name, family) for name in fields}
    of_the_model = [name for name in ("checkpoint", "dtype") if name in names]
    return (*of_the_model, *(name for name in family.sites.acceptable if family.sites.accepted(name) <= sites))
