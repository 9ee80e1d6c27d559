"""What the tests of the instrument share: observations, records and dumps made of given tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.judge.judgement import Judgement, Tolerance
from waypoint_parity.harness.record.records import (
    DUMP_SCHEMA,
    MANIFEST_NAME,
    Manifest,
    Record,
    read_records,
    to_json,
)
from waypoint_parity.harness.record.writer import DumpWriter
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.taps import Observation

FAMILY = family_named("waypoint")
JUDGEMENT = Judgement(Tolerance(1e-5, 1e-3, shown_at=("frame",)))
LATENT = Key(0, "denoise", 0, "latent")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def foreign(dump: Path) -> Path:
    """The dump as another engine would have written it, which knows no seals."""
    given = msgspec.json.decode((dump / MANIFEST_NAME).read_bytes())
    (dump / MANIFEST_NAME).write_bytes(to_json({name: given[name] for name in given.keys() - {"files", "seal"}}))
    return dump


def key(site: str, unit: int = 0, step: int = 0, call: int = 0) -> Key:
    return Key(unit, "denoise", step, site, call=call)


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "schema": DUMP_SCHEMA,
        "implementation": "eager",
        "numerics": {"dtype": "fp32", "device": "cpu", "compiled": "false"},
        "description": {},
        "checkpoint_digest": "c0ffee",
        "checkpoint_origin": "fixtures/golden/base",
        "scenario_digest": "5ce7a",
        "scenario_name": "walk",
        "variant": None,
        "sigmas": [1.0, 0.5, 0.0],
        "torch": str(torch.__version__),
        "threads": 1,
        "platform": "any",
        "source_revision": None,
        "expected": 0,
        "observed": 0,
        "seconds": 0.0,
        "complete": False,
    }
    return Manifest(**values | changes)


def write_dump(
    folder: Path, observations: Iterable[tuple[Key, Tensor]], *, keep: Sequence[str] = (), **changes: Any
) -> Path:
    """A finished dump of `observations`, those that `keep` names as full tensors too; `changes` go to its manifest."""
    seen = list(observations)
    with DumpWriter(folder, manifest(**{"expected": len(seen), **changes}), keep) as writer:
        for at, tensor in seen:
            writer.observe(Observation(at, 1.0, tensor))
    return folder


def record(folder: Path, tensor: Tensor, at: Key = LATENT) -> Record:
    """The record that a dump has of `tensor`; `folder` is where the dump goes."""
    return next(read_records(write_dump(folder, [(at, tensor)])))


def off_by(rel_l2: float) -> Error:
    return Error(identical=False, rel_l2=rel_l2)


SAME = Error(identical=True, rel_l2=0.0, cosine=1.0, norm_ratio=1.0)


@dataclass
class Seen:
    """A sink that keeps everything; `ends` has, for every end of a pass, how much had been seen by then."""

    observations: list[Observation] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def observe(self, seen: Observation) -> None:
        self.observations.append(seen)

    def end_pass(self) -> None:
        self.ends.append(len(self.observations))

    @property
    def keys(self) -> list[Key]:
        return [seen.key for seen in self.observations]
