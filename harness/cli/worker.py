"""The command that drives an implementation for another process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from waypoint_parity.harness.cli.outcome import HOLDS

if TYPE_CHECKING:
    from waypoint_parity.harness.run.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class WorkerCommand:
    """Drive an implementation for a command that runs elsewhere.

    --candidate-python and `command:` start this. It talks over standard input and output, as docs/protocol.md
    describes. Where waypoint-parity is not installed, the file harness/run/worker.py alone does the same.

    Example: waypoint-parity worker my_port.py:MyPort
    """

    implementation: tyro.conf.Positional[str]
    """A registered name, path/to/file.py:ClassName or package.module:ClassName."""

    def run(self) -> int:
        """Answer until the other side is gone."""
        from waypoint_parity.harness.run.scenario import Scenario
        from waypoint_parity.harness.run.worker import loader, serve, standard_streams

        serve(standard_streams(), loader(self._made), Scenario)
        return HOLDS

    def _made(self, asked: Mapping[str, Any]) -> "Adapter":
        """The implementation, loaded as the other side asks."""
        import torch

        from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
        from waypoint_parity.harness.errors import UserError
        from waypoint_parity.harness.run import registry
        from waypoint_parity.harness.run.adapter import DTYPES, Numerics

        checkpoint = open_checkpoint(asked["checkpoint"]["location"])
        if checkpoint.digest != asked["checkpoint"]["digest"]:
            raise UserError(
                f"{checkpoint.origin}: another checkpoint lies here",
                found=checkpoint.digest,
                expected=asked["checkpoint"]["digest"],
                do="copy the checkpoint of the run here",
            )
        given = asked["numerics"]
        numerics = Numerics(
            DTYPES[given["dtype"]],
            torch.device(given["device"]),
            compiled=given["compiled"] == "true",
            options=tuple(option for option in given["options"].split("+") if option),
        )
        return registry.load(self.implementation, checkpoint, numerics)
