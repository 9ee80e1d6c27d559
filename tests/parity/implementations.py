"""What the parity tests share: capturing every tensor of a session, and the golden packs to hold them against."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import DEVICE
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, recording

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
IMPLEMENTATIONS = ("eager", "candidate")
DTYPE_OF_PACK = {"base": "fp32", "image": "fp32", "bf16": "bf16"}


@dataclass
class Capture:
    """A sink that keeps every tensor, by the name of its key."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def observe(self, seen: Observation) -> None:
        self.tensors[str(seen.key)] = seen.tensor.to("cpu", copy=True)

    def end_pass(self) -> None:
        pass


def run_pack(implementation: str, pack: str) -> dict[str, Tensor]:
    """Every tensor that `implementation` shows on the scenario of a golden pack, by its name there."""
    checkpoint = open_checkpoint(GOLDEN / "base")
    numerics = Numerics(DTYPES[DTYPE_OF_PACK[pack]], DEVICE)
    adapter = registry.find(implementation)(checkpoint, numerics)
    capture = Capture()
    with recording(adapter.sites(), capture) as recorder:
        run(adapter, read_scenario(GOLDEN / pack / "scenario.safetensors"), checkpoint, recorder)
    return by_pack_name(capture.tensors)


def by_pack_name(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Captured tensors by their names in a golden pack, which calls a unit a frame."""
    return {f"f{name.removeprefix('u')}": tensor for name, tensor in tensors.items()}


def golden_activations(pack: str) -> dict[str, Tensor]:
    """The official tensors of a pack by name; latents under the name of the step that made them."""
    golden = load_file(GOLDEN / pack / "activations.safetensors")
    named = {f"f{frame}/denoise3/latent": latent for frame, latent in enumerate(golden.pop("latents"))}
    if "image/latent" in golden:
        named["f0/image0/latent"] = golden.pop("image/latent")
    return golden | named


def golden_frames(pack: str) -> dict[str, Tensor]:
    """The official decoded frames of a pack, [360,640,3] uint8, by name."""
    frames = load_file(GOLDEN / pack / "frames.safetensors")
    return {name.replace("/frame", "/decode0/frame"): frame for name, frame in frames.items()}
