"""A sweep's plan as a TOML file: what is compared, the levels of each factor, and the cells that are chosen of them."""

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.adapter import DTYPES
from waypoint_parity.harness.sweep.factors import DTYPE, Choice


class PlanFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may say. Paths are as on the command line."""

    reference: str | None = None
    checkpoint: str | None = None
    scenario: str | None = None
    image_scenario: str | None = None
    # Levels by factor; what is not named is as on the command line.
    factors: dict[str, Annotated[list[str | int], msgspec.Meta(min_length=1)]] = {}
    only: list[dict[str, str | int]] = []
    exclude: list[dict[str, str | int]] = []

    def __post_init__(self) -> None:
        """Raise ValueError for a dtype that there is none of: a family cannot refuse it, as its own levels."""
        if unknown := [dtype for dtype in self.levels(DTYPE) or [] if dtype not in DTYPES]:
            raise ValueError(f"dtype {unknown[0]}, not one of {', '.join(DTYPES)}")

    @property
    def choice(self) -> Choice:
        """The cells that it takes."""
        only, exclude = (
            [{name: str(level) for name, level in levels.items()} for levels in chosen]
            for chosen in (self.only, self.exclude)
        )
        return Choice(only, exclude)

    def levels(self, factor: str) -> list[str] | None:
        """The levels of a factor that it names; None for another one."""
        named = self.factors.get(factor)
        return None if named is None else [str(level) for level in named]


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
