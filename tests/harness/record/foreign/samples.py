"""The samples of other tools' dumps, and importing them."""

from pathlib import Path
from typing import Any, NamedTuple

from waypoint_parity.harness.record.foreign.found import Asked
from waypoint_parity.harness.record.foreign.importing import Wanted, import_dump
from waypoint_parity.harness.record.foreign.keys import KeyRules, Renames
from waypoint_parity.harness.record.records import Manifest, Record, read_records

ROOT = Path(__file__).parents[4]
SAMPLES = ROOT / "fixtures" / "peer_dumps"


class Imported(NamedTuple):
    """What was imported: `keys` are the names of the observations, in the order of the dump."""

    manifest: Manifest
    records: dict[str, Record]
    called: str

    @property
    def keys(self) -> list[str]:
        return list(self.records)


def imported(source: Path | str, out: Path, *, rename: tuple[str, ...] = (), **options: Any) -> Imported:
    """The dump of a sample, or of another source; options go to whom they belong to."""

    def of(kind: type) -> dict[str, Any]:
        return {name: options.pop(name) for name in kind.__dataclass_fields__.keys() & options.keys()}

    wanted = Wanted(asked=Asked(**of(Asked)), rules=KeyRules(**of(KeyRules)), renames=Renames.read(rename), **options)
    manifest, called = import_dump(SAMPLES / source, out, wanted)
    records = {str(record.key): record for record in read_records(out)}
    assert manifest.complete
    assert manifest.observed == manifest.expected == len(records)
    return Imported(manifest, records, called)
