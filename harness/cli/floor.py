"""The command that measures a noise floor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from waypoint_parity.harness.cli.options import NumericsOptions, SweepInputs, SweepOptions
from waypoint_parity.harness.cli.outcome import HOLDS
from waypoint_parity.harness.errors import UserError

if TYPE_CHECKING:
    from waypoint_parity.harness.run.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class FloorCommand:
    """Measure the noise floor: the reference against itself, changed harmlessly.

    Example: waypoint-parity floor --checkpoint CHECKPOINT --scenario SCENARIO --dtype bf16
    """

    reference: str = "eager"
    """The implementation that is right."""
    swept: tyro.conf.OmitArgPrefixes[SweepOptions] = field(default_factory=SweepOptions)
    runs: int = 20
    """Seeds of each kind of session; prompt masks take turns over them."""
    first_seed: int = 1000
    """Noise seed of the first run; the others follow far enough from it to share no frame's noise."""
    out: Path | None = None
    """File to write; else noise_floor.DTYPE.json in the checkpoint folder, where comparisons look for it."""
    numerics: tyro.conf.OmitArgPrefixes[NumericsOptions] = field(default_factory=NumericsOptions)

    def run(self) -> int:
        """Measure the floor, write it and print it in short."""
        from waypoint_parity.harness.cli.text.floor import floor_lines
        from waypoint_parity.harness.judge.noise_floor.document import floor_path, write_floor
        from waypoint_parity.harness.judge.noise_floor.measure import measure_floor, seeds
        from waypoint_parity.harness.progress import progress

        inputs, numerics = self.swept.opened(), self.numerics.applied()
        checkpoint = inputs.checkpoint
        if "seed" not in checkpoint.family.factors:
            raise UserError(
                f"no noise floor can be measured for {checkpoint.family.name}",
                found="a family without a factor `seed`",
                expected="sessions that can be drawn anew from seeds",
                do="judge by a tolerance: --tolerance",
            )
        out = self.out or floor_path(checkpoint.folder or Path(), numerics.dtype_name)
        kinds = _kinds(inputs, self.swept.levels(checkpoint, {}), seeds(self.first_seed, self.runs))
        floor = measure_floor(self.reference, checkpoint, numerics, kinds, progress)
        write_floor(floor, out)
        print("\n".join([f"{out}:", *floor_lines(floor)]))
        return HOLDS


def _kinds(
    inputs: SweepInputs, levels: Mapping[str, Sequence[str | None]], seeds: Sequence[int]
) -> "list[list[Scenario]]":
    """Sessions of each kind, one for every seed: a schedule, over which other levels take turns; or as recorded."""
    from waypoint_parity.harness.run.variant import Variant

    geometry = inputs.checkpoint.geometry
    others = {name: cycle(each) for name, each in levels.items() if name not in ("schedule", "seed")}

    def sessions(schedule: str | None) -> "list[Scenario]":
        chosen = [
            Variant.of({"schedule": schedule, "seed": str(seed), **{name: next(each) for name, each in others.items()}})
            for seed in seeds
        ]
        return [variant.apply(inputs.scenario, geometry) for variant in chosen]

    kinds = [sessions(schedule) for schedule in levels.get("schedule", (None,))]
    if inputs.recorded is not None:
        kinds.append([Variant.of({"seed": str(seed)}).apply(inputs.recorded, geometry) for seed in seeds])
    return kinds
