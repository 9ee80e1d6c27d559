"""A dump in an implementation's place: what it kept in full tensors, shown again step by step."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.kept_tensors import open_tensors
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    RECORDS_NAME,
    TENSORS_NAME,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.record.seal import check_seals
from waypoint_parity.harness.run.adapter import Numerics, Pass, Shown, Site
from waypoint_parity.harness.run.digest import values_digest
from waypoint_parity.harness.run.keys import At, Key
from waypoint_parity.harness.run.scenario import Scenario


class Replay:
    """Shows the tensors of the dump in the folder `argument`. Nothing is computed, and nothing can be put in place.

    So an engine in whatever language is judged site by site, as long as it can write a dump.
    """

    ARGUMENT = "the folder of a dump with tensors"
    # Of what was recorded there is one session.
    RECORDED = True
    argument: ClassVar[str]

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        """Raise UserError for a dump without tensors, of another checkpoint, and in another dtype."""
        self._folder = Path(self.argument)
        self._manifest = read_manifest(self._folder)
        check_seals(self._folder, self._manifest)
        self._device = numerics.device
        self._check("checkpoint", self._manifest.checkpoint_digest, checkpoint.digest)
        self._check("dtype", self._manifest.numerics["dtype"], numerics.dtype_name)
        self._shown = {site: _Again() for site in self._kept_sites()}
        if not self._shown:
            raise UserError(
                f"{self._folder}: the dump keeps no tensors",
                found="records alone",
                expected=f"full tensors in {TENSORS_NAME}",
                do="dump again with --tensors",
            )

    def _kept_sites(self) -> set[str]:
        if not (self._folder / TENSORS_NAME).is_file():
            return set()
        names = open_tensors(self._folder).names
        return {record.site for record in read_records(self._folder) if str(record.key) in names}

    @classmethod
    def content_digest(cls) -> str:
        """SHA-256 over what it shows."""
        hasher = hashlib.sha256()
        for name in (MANIFEST_NAME, RECORDS_NAME, TENSORS_NAME):
            with suppress(OSError), (Path(cls.argument) / name).open("rb") as file:
                hasher.update(hashlib.file_digest(file, "sha256").digest())
        return hasher.hexdigest()

    def describe(self) -> dict[str, str]:
        """What the dump says of the run that it recorded."""
        return {**self._manifest.description, "recorded": self._manifest.implementation, "torch": self._manifest.torch}

    @property
    def recorded_units(self) -> int | None:
        """How many first units were recorded, where not all were asked for; None where all were."""
        chosen = self._manifest.selection
        if chosen is None or (chosen.units is None and chosen.every == 1):
            return None
        units = range(self._manifest.units or 0)
        taken = [(chosen.units is None or unit in chosen.units) and unit % chosen.every == 0 for unit in units]
        return next((unit for unit in units if not taken[unit]), None)

    def sites(self) -> Mapping[str, Site]:
        """The sites of which the dump keeps tensors."""
        return {site: Site(module, layout=lambda output, inputs: output) for site, module in self._shown.items()}

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """The steps of the dump, in its order; of its first units, where the scenario has fewer.

        Raises UserError for a scenario that is not the one it recorded.
        """
        if scenario.units == self._manifest.units:
            given = {name: values_digest("", [(name, tensor)]) for name, tensor in scenario.tensors.items()}
            for name, digest in given.items():
                self._check(f"scenario ({name})", (self._manifest.inputs or {}).get(name, digest), digest)
        tensors = open_tensors(self._folder, str(self._device))
        kept = (record for record in read_records(self._folder) if str(record.key) in tensors.names)
        begun: set[At] = set()
        for at, records in groupby(kept, key=lambda record: record.key.at):
            if at in begun:
                raise UserError(
                    f"{self._folder}: the records of a step lie apart",
                    found=f"unit {at.unit}, {at.phase} step {at.step} begins a second time",
                    expected="records in the order of execution",
                    do="correct what wrote the dump",
                )
            begun.add(at)
            if at.unit >= scenario.units:
                continue
            step = list(records)
            branches = tuple(dict.fromkeys(record.branch for record in step if record.branch))
            yield at.unit, Pass(at.phase, at.step, step[0].sigma, branches or ("",))
            for site in dict.fromkeys(record.site for record in step):
                shown = {record.key: tensors.tensor(record) for record in step if record.site == site}
                self._shown[site](_as_shown(shown))

    def _check(self, what: str, recorded: str, asked: str) -> None:
        if recorded != asked:
            raise UserError(
                f"{self._folder}: the dump is of another {what}",
                found=recorded,
                expected=asked,
                do="give what the dump was made with; `parity --as-recorded` runs a scenario without a sweep",
            )


class _Again(nn.Module):
    """Returns what it is given."""

    def forward(self, shown: Shown) -> Shown:
        """What the site shows."""
        return shown


def _as_shown(tensors: Mapping[Key, Tensor]) -> Shown:
    """What a site shows in a step: by branch, or call by call."""
    if any(key.branch for key in tensors):
        return {key.branch: tensor for key, tensor in tensors.items()}
    return [*tensors.values()]
