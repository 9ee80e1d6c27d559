"""A sweep's plan as a TOML file: what is compared, the levels of each factor, and the cells that are chosen of them."""

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.levels import NoisePolicy, PromptMask
from waypoint_parity.harness.sweep.factors import Choice


class PlannedFactors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Levels; what is not named is as on the command line."""

    implementation: list[str] | None = None
    schedule: list[str] | None = None
    seed: list[int] | None = None
    policy: list[NoisePolicy] | None = None
    mask: list[PromptMask] | None = None
    dtype: list[Literal["fp32", "bf16"]] | None = None
    attention: list[str] | None = None


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may say. Paths are as on the command line."""

    reference: str | None = None
    checkpoint: str | None = None
    scenario: str | None = None
    image_scenario: str | None = None
    factors: PlannedFactors = PlannedFactors()
    only: list[dict[str, str | int]] = []
    exclude: list[dict[str, str | int]] = []

    @property
    def choice(self) -> Choice:
        """The cells that it takes. Raises UserError for a factor that there is none of."""
        only, exclude = (
            [{name: str(level) for name, level in levels.items()} for levels in chosen]
            for chosen in (self.only, self.exclude)
        )
        return Choice(only, exclude)


def read_plan(path: Path) -> PlanFile:
    """The plan in a TOML file. Raises UserError for a broken file, and for a key that a plan does not have."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text("utf-8")), PlanFile)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UserError(
            f"{path}: cannot be read as a plan",
            found=str(error),
            expected="TOML with reference, checkpoint, scenario, image_scenario, [factors], [[only]], [[exclude]]",
            do="correct it; `waypoint-parity parity --help` tells what the factors are",
        ) from error
