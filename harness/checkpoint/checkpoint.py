"""Checkpoints: the configs and weights of a model, opened by the family that recognises its folder.

Where they lie is the matter of harness/checkpoint/hub.py. Keys and shapes are checked against the config when a
checkpoint is opened, from the file headers; values when they are loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from waypoint_parity.harness.checkpoint.hub import locate
from waypoint_parity.harness.checkpoint.weights import Weights, untied_copies
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import reading
from waypoint_parity.harness.run.digest import values_digest
from waypoint_parity.harness.run.family import Family, families, family_in, family_named

if TYPE_CHECKING:
    from waypoint_parity.harness.run.scenario import Scenario


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: keys and shapes are known to fit the configs, unless it was opened without the check.

    `geometry` holds the configs as `family` reads them, `files` the tensors of every component.
    """

    origin: str
    family_name: str
    geometry: Any
    files: Mapping[str, Weights]
    # Where it lies, and what travels with it (harness/judge/noise_floor); None for a checkpoint made in memory.
    folder: Path | None = None

    @property
    def family(self) -> Family:
        """The family that knows its model. By name: a checkpoint is sent to other processes."""
        return family_named(self.family_name)

    def check(self) -> None:
        """Raise UserError, naming the keys, where the files do not hold exactly what the configs ask for."""
        for component, weights in self.files.items():
            expected = self.family.keys(component, self.geometry)
            if expected is not None:
                weights.check(expected)

    def check_scenario(self, scenario: "Scenario") -> None:
        """Raise UserError for a scenario of another family, and for one that does not fit the configs."""
        if scenario.family != self.family_name:
            raise UserError(
                f"{scenario.name}: a scenario of another family",
                found=scenario.family,
                expected=f"{self.family_name}, as the checkpoint",
                do=f"name a scenario of {self.family_name}, or make one: waypoint-parity scenario make --help",
            )
        self.family.check(scenario, self.geometry)

    def weights(self, component: str) -> dict[str, Tensor]:
        """The tensors of a component, keyed as in the official checkpoint.

        Raises UserError for values that are not finite, and where copies of a matrix that all blocks share differ: no
        two implementations need take the same one of them.
        """
        files = self.files[component]
        if untied := untied_copies(files, self.family.tied.get(component)):
            raise UserError(
                f"{self.origin}: {component} has copies of a shared matrix that differ from the others",
                found=listed(untied),
                expected="the same values in every block",
                do="convert the checkpoint again; its shared matrices were not filled, or not cast, in every block",
            )
        return files.load()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over configs, keys, dtypes, shapes and values: equal for equal models in whatever layout."""
        configs = json.dumps(list(self.geometry.to_json().values()))
        return values_digest(configs, chain.from_iterable(weights.stream() for weights in self.files.values()))


def open_checkpoint(location: str | Path, *, check: bool = True) -> Checkpoint:
    """Open the checkpoint at `location` (see harness.checkpoint.hub.locate), and `check` its keys and shapes.

    Raises UserError for a folder that no family recognises, for a config that is none and, checked, for whatever does
    not fit the configs. Only an inspection opens a checkpoint unchecked: it reports what does not fit.
    """
    with reading(location):
        folder, origin = locate(str(location))
        family = family_in(folder)
        if family is None:
            raise UserError(
                f"{location}: not a checkpoint folder",
                found=listed(sorted(entry.name for entry in folder.iterdir())) or "an empty folder",
                expected="; or ".join(known.layout for known in families().values()),
                do="name the folder that holds them",
            )
        opened = family.open(folder, lambda named: locate(named)[0])
    files = {
        name: weights.with_ties(family.keys(name, opened.geometry), family.tied.get(name))
        for name, weights in opened.files.items()
    }
    checkpoint = Checkpoint(origin, family.name, opened.geometry, files, folder)
    if check:
        checkpoint.check()
    return checkpoint
