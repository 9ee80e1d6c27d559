"""The commands for who writes files of this package with an engine of their own: print a schema, check a dump."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from waypoint_parity.harness.cli.outcome import HOLDS, UNUSABLE, tell
from waypoint_parity.harness.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SchemaCommand:
    """Print the JSON schema of what an engine writes, or a command (draft 2020-12).

    Example: waypoint-parity schema record
    """

    of: tyro.conf.Positional[Literal["manifest", "record", "message", "comparison", "dump-check"]]
    """manifest.json; a line of activations.jsonl; what an engine in a process of its own says (docs/protocol.md); what
    `diff --json` or `check-dump --json` writes."""

    def run(self) -> int:
        """Print the schema."""
        import msgspec

        from waypoint_parity.harness.compare.dump_check import DumpCheck
        from waypoint_parity.harness.judge.comparison import Comparison
        from waypoint_parity.harness.record.records import Manifest, Record, to_json
        from waypoint_parity.harness.run.remote import Said

        types = {
            "manifest": Manifest,
            "record": Record,
            "message": Said,
            "comparison": Comparison,
            "dump-check": DumpCheck,
        }
        schema = msgspec.json.schema(types[self.of])
        print(to_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}).decode(), end="")
        return HOLDS


@dataclass(frozen=True, kw_only=True)
class CheckDumpCommand:
    """Tell all that is wrong with a dump, such as one of your own engine (docs/format.md).

    Exit code 0 where nothing is, 2 where something is.

    Example: waypoint-parity check-dump my_engines_dump --against reports/out/reference
    """

    dump: tyro.conf.Positional[Path]
    """Folder of the dump."""
    checkpoint: str | None = None
    """Checkpoint that was run, with --scenario: every observation of the session is known then."""
    scenario: Path | None = None
    """Scenario file that was run, with --checkpoint."""
    against: Path | None = None
    """Dump of the same session that is right, such as the reference's: shapes and projections are held against it."""
    json: Path | None = None
    """Write everything found here too; - writes it to standard output, and nothing else."""

    def run(self) -> int:
        """Print what is wrong."""
        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.cli.text.dump_check import dump_check_lines
        from waypoint_parity.harness.compare.dump_check import check_dump
        from waypoint_parity.harness.run.scenario import read_scenario

        if (self.checkpoint is None) != (self.scenario is None):
            raise UserError(
                "a session is a checkpoint and a scenario",
                found="--checkpoint alone" if self.scenario is None else "--scenario alone",
                expected="both or neither",
                do="give the other one too",
            )
        checkpoint = None if self.checkpoint is None else open_checkpoint(self.checkpoint)
        scenario = None if self.scenario is None else read_scenario(self.scenario)
        if checkpoint is not None and scenario is not None:
            checkpoint.check_scenario(scenario)
        check = check_dump(self.dump, checkpoint, scenario, self.against)
        tell(dump_check_lines(check), check, self.json)
        return HOLDS if check else UNUSABLE
