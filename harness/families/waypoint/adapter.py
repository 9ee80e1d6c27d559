"""What implementations of Waypoint have in common: a session goes on frame by frame, as somebody may steer it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.scenario import Controls, Inputs, Prompt
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Pass, Site
from waypoint_parity.harness.run.engine import no_session
from waypoint_parity.harness.run.scenario import Scenario


class FrameByFrame(ABC):
    """An adapter that is asked for one frame after the other.

    `start`, `append_image` and `generate` are generators: each yields every pass just before running it. A seed image
    is clock 0; generated frames are numbered from 0 whether or not an image came first.
    """

    @abstractmethod
    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written. `sigmas` [S+1] fp32, ending in 0."""

    @abstractmethod
    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame: `image` [360,640,3] uint8 is encoded and written to the caches with idle controls.

        For Waypoint 1.5 it is [4,H,W,3]; the latent of it is then decoded, in a "decode" pass.
        """

    @abstractmethod
    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame from `noise` [1,1,C,h*ph,w*pw] fp32: denoise, write the caches, decode."""

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session, frame by frame."""
        given = Inputs(scenario)
        yield from ((0, at) for at in self._passes("start", given.prompt, given.sigmas))
        # Whoever decodes the seed latent does so first; pictures of one unit are told by their step.
        first_decode = 0 if given.image is None else int(given.image.ndim == 4)
        if given.image is not None:
            yield from ((0, at) for at in self._passes("append_image", given.image))
        for frame in range(scenario.units):
            for at in self._passes("generate", given.noise[frame], given.controls(frame)):
                yield frame, _decoded_in(at, first_decode) if frame == 0 else at

    def _passes(self, method: str, *given: Any) -> Iterator[Pass]:
        """What a method of the class yields. Raises UserError where it is no generator."""
        passes: object = getattr(self, method)(*given)
        if not isinstance(passes, Iterator):
            raise no_session(self, f"{method}() that returns {type(passes).__name__}")
        return passes


def _decoded_in(at: Any, step: int) -> Any:
    """A decode pass in this step, any other as it is. What is no pass is refused by whoever takes it."""
    return at._replace(step=step) if isinstance(at, Pass) and at.phase == "decode" else at


def matching_sites(root: nn.Module, geometry: WaypointGeometry) -> dict[str, Site]:
    """The submodules of `root` whose names are site names. For models that mirror the official module tree."""
    names = {row.name for row in site_table(geometry).rows}
    return {name: Site(module) for name, module in root.named_modules() if name in names}
