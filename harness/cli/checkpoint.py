"""The commands on checkpoints: inspect one, convert one."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from waypoint_parity.harness.cli.options import NumericsOptions
from waypoint_parity.harness.cli.outcome import FAILS, HOLDS, tell


@dataclass(frozen=True, kw_only=True)
class InfoCommand:
    """Inspect a checkpoint, whole or not, or list the registered implementations.

    Example: waypoint-parity info fixtures/golden/base --implementation candidate
    """

    checkpoint: tyro.conf.Positional[str | None] = None
    """Checkpoint folder, its name in official_weights/ or converted_weights/, or hub id with its revision."""
    implementation: str | None = None
    """Load the checkpoint with this one, and find what that leaves uninitialised."""
    against: str | None = None
    """Another checkpoint; its configs are compared with this one's."""
    keys: bool = False
    """List every tensor by itself."""
    json: Path | None = None
    """Write everything found here too; - writes it to standard output, and nothing else."""
    numerics: tyro.conf.OmitArgPrefixes[NumericsOptions] = field(default_factory=NumericsOptions)

    def run(self) -> int:
        """Print what was found, or the names of the implementations."""
        if self.checkpoint is None:
            return self._list_implementations()
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.checkpoint.inspection import inspect_checkpoint
        from waypoint_parity.harness.cli.text.checkpoint import checkpoint_lines

        checkpoint = open_checkpoint(self.checkpoint, check=False)
        against = None if self.against is None else open_checkpoint(self.against, check=False)
        inspection = inspect_checkpoint(checkpoint, self.implementation, against, numerics=self.numerics.applied())
        tell(checkpoint_lines(checkpoint, inspection, all_keys=self.keys), inspection.to_json(), self.json)
        return HOLDS if inspection else FAILS

    def _list_implementations(self) -> int:
        from waypoint_parity.harness.run import registry

        for name, point in sorted(registry.registered().items()):
            print(f"{name:16} {point.value}")
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class SitesCommand:
    """List the sites that an implementation of a model is to show, in order.

    Example: waypoint-parity sites fixtures/golden/base --json -
    """

    checkpoint: tyro.conf.Positional[str]
    """Checkpoint folder, its name in official_weights/ or converted_weights/, or hub id with its revision."""
    scenario: Path | None = None
    """Scenario of the session; else one of the family's own."""
    json: Path | None = None
    """Write the table here too; - writes it to standard output, and nothing else."""

    def run(self) -> int:
        """Print the table."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.cli.text.checkpoint import site_lines
        from waypoint_parity.harness.run.scenario import read_scenario

        checkpoint = open_checkpoint(self.checkpoint)
        family, geometry = checkpoint.family, checkpoint.geometry
        if self.scenario is None:
            scenario = family.make(geometry, name="any", seed=0, units=1)
        else:
            scenario = read_scenario(self.scenario)
            checkpoint.check_scenario(scenario)
        rows = family.table(geometry, scenario).rows
        tell(site_lines(rows), rows, self.json)
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class ConvertCommand:
    """Write a checkpoint in another layout, bit for bit.

    Example: waypoint-parity convert official_weights/Waypoint-1-Small --to diffusers --out
    converted_weights/Waypoint-1-Small
    """

    source: tyro.conf.Positional[str]
    """Checkpoint folder, its name in official_weights/ or converted_weights/, or hub id with its revision."""
    to: Literal["diffusers", "package"]
    """Layout: of diffusers (transformer/, vae/), or the official package's own (config.yaml, model.safetensors)."""
    out: Path
    """Folder to write; one that holds this model already is left as it is."""
    force: bool = False
    """Replace another checkpoint in that folder."""

    def run(self) -> int:
        """Write the converted checkpoint, where it is not there already."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.checkpoint.convert import convert

        checkpoint = open_checkpoint(self.source)
        written = convert(checkpoint, self.to, self.out, force=self.force)
        outcome = f"{self.to} layout of" if written else "left as it is, holds already"
        print(f"{self.out}: {outcome} {checkpoint.origin}, digest {checkpoint.digest}")
        return HOLDS
