"""What the result of a cell depends on, and the digest of it that is the cell's address."""

import hashlib
from dataclasses import dataclass

import msgspec
import torch

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.record.records import spelt
from waypoint_parity.harness.run.worker import environment
from waypoint_parity.harness.sweep.cells import Cell
from waypoint_parity.harness.sweep.source import implementation_digest, module_digest

# The module that runs a cell: with all that it imports it is the instrument.
INSTRUMENT = "waypoint_parity.harness.sweep.run_cell"


@dataclass(frozen=True)
class Rules:
    """How every cell of a sweep is run, whatever its factors."""

    reference: str
    threads: int = 1
    allow_observer_effect: bool = False
    # Run every cell a second time, with the candidate's caches and latents following the reference's.
    teacher_forced: bool = False
    # In a lower precision than fp32, run the reference in fp32 beside both.
    three_way: bool = True
    # Follow both sides in fp64, and judge by that.
    exact: bool = False
    # The sides that compile themselves: "reference", "candidate".
    compiled: tuple[str, ...] = ()


def identity(rules: Rules, checkpoint: Checkpoint, cell: Cell) -> dict[str, str]:
    """Everything that the result of `cell` depends on, by name. Raises UserError for an implementation that is none."""
    return {
        "reference": rules.reference,
        "reference source": implementation_digest(rules.reference),
        "candidate": cell.candidate,
        "candidate source": implementation_digest(cell.candidate),
        "instrument": module_digest(INSTRUMENT),
        "family source": module_digest(type(checkpoint.family).__module__),
        "checkpoint": checkpoint.digest,
        "scenario": cell.scenario.digest,
        "scenario name": cell.scenario.name,
        **{f"numerics: {name}": value for name, value in cell.numerics.to_json().items()},
        "threads": str(rules.threads),
        "torch": str(torch.__version__),
        "processor": environment()["processor"],
        "standards": cell.standards.digest,
        "accepted inputs": ", ".join(cell.standards.accepted_inputs),
        "allowed missing": ", ".join(cell.standards.allowed_missing),
        "allowed precision": cell.standards.precision,
        "observer effect allowed": str(rules.allow_observer_effect),
        "teacher-forced": str(rules.teacher_forced),
        "three-way": str(rules.three_way),
        "exact": str(rules.exact),
        "compiled": ", ".join(rules.compiled),
    }


def address(identity: dict[str, str]) -> str:
    """SHA-256 of an identity."""
    told = {name: spelt(value) for name, value in identity.items()}
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()
