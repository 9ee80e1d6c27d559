"""What adapters of whole Wan pipelines have in common: a clip is one call, told pass by pass from hooks on its models.

Nothing of the pipeline is computed here, but for the pictures that its last layer's values become.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from waypoint_parity.harness.families.wan.config import WanGeometry
from waypoint_parity.harness.families.wan.sites import BRANCHES, DECODE, DENOISE, VIDEO, site_table
from waypoint_parity.harness.run.adapter import Pass, Site
from waypoint_parity.harness.run.keys import is_input
from waypoint_parity.harness.run.paused_call import PausedCall
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.worker import apart

OWN_SCHEDULE = "own-schedule"
Layout = Callable[[Any, tuple[Any, ...]], Tensor]
Restore = Callable[[Any, Any], Any]
# Sites that no module of a pipeline returns, but for the velocity.
_BETWEEN = ("velocity", "guided", "latent", "unscaled", "picture", "video")
# What the official code calls the modules of sites whose names are shorter.
_MODULES = {"time_projection": "time_projection.1", "head": "head.head", "decoder.head": "decoder.head.2"}


class ClipByClip(ABC):
    """An adapter of a pipeline that makes a whole clip in one call; see harness.run.adapter.Adapter.

    The transformer is called with the prompt, then without it, in every step; the autoencoder decodes a latent after
    the other. `transformer` is the pipeline's. Every site is a probe: the call runs in a thread of
    its own, and what is shown is shown outside of it.
    """

    def __init__(self, transformer: nn.Module, geometry: WanGeometry) -> None:
        self._transformer, self._geometry = transformer, geometry
        self._layers = range(geometry.transformer.num_layers)
        self._rows = {row.name: row for row in site_table(len(self._layers)).rows}
        self._probes = {name: nn.Identity() for name in self._rows}
        self._given: Scenario | None = None
        self._running: PausedCall | None = None
        self._step = self._branch = self._latent = 0
        self._begun = False
        self._sigmas: list[float] = []

    @abstractmethod
    def find(self, component: str, name: str) -> nn.Module:
        """The module of a component that has an official name."""

    @abstractmethod
    def call(self, scenario: Scenario, unit: int) -> Tensor:
        """Make a clip: one call of the pipeline. Returns the video [1,3,n,H,W] from -1 to 1 that the call returns."""

    @abstractmethod
    def surroundings(self) -> AbstractContextManager[object]:
        """What the call runs within: settings of the whole process."""

    @abstractmethod
    def velocity(self) -> tuple[Layout, Restore]:
        """How the transformer's output becomes [1,C,T,h,w], and the way back."""

    @abstractmethod
    def with_timestep(self, arguments: dict[str, Any], show: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The keyword arguments of the transformer, its timestep shown as it is consumed."""

    def sites(self) -> Mapping[str, Site]:
        """Every site of the family: what modules return, by their names, and what passes between them."""
        special = {"patch_embedding": (_tokens, _volume), "velocity": self.velocity()}
        return {name: Site(probe, *special.get(name, ())) for name, probe in self._probes.items()}

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session, clip by clip."""
        self._given = scenario
        with ExitStack() as attached:
            for handle in self._attach():
                attached.callback(handle.remove)
            for unit in range(scenario.units):
                self._step, self._branch, self._latent = -1, 0, 0
                self._begun, self._sigmas = False, []
                self._running = PausedCall(partial(self._make, scenario, unit), self.surroundings)
                yield from ((unit, at) for at in self._running.passes())

    def _make(self, scenario: Scenario, unit: int) -> None:
        # What a pipeline does behind the decoder, no hook sees.
        video = self.call(scenario, unit)
        self._announce(Pass(VIDEO))
        self.probe("video", video)

    # Not `show`: a worker gives every engine a method of that name, which knows no layouts.
    def probe(self, site: str, value: Any) -> Any:
        """Show `value` at the probe of `site`; go on with what this returns."""
        assert self._running is not None, "nothing is shown outside of a session"
        return self._running.outside(lambda: self._probes[site](value))

    def _announce(self, at: Pass) -> None:
        assert self._running is not None, "no pass is announced outside of a session"
        self._running.pause(at)

    def show_noise(self, noise: Tensor) -> Tensor:
        """The start noise as the pipeline takes it, which begins the first step."""
        self._begin_step()
        shown: Tensor = self.probe("input.noise", noise)
        return shown

    def scheduler(self, kind: type, *, own: bool) -> type:
        """A scheduler of this kind whose steps are shown, on the recorded schedule unless it is to have its `own`."""
        adapter = self

        class Shown(kind):  # type: ignore[misc]
            timesteps: Tensor
            sigmas: Tensor

            def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
                super().set_timesteps(*args, **kwargs)
                assert adapter._given is not None, "a schedule is set outside of a session"
                if not own:
                    self.timesteps = adapter._given["timesteps"].to(self.timesteps)
                    self.sigmas = adapter._given["sigmas"].to(self.sigmas)
                with apart():
                    adapter._sigmas = self.sigmas.tolist()

            def step(self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
                adapter._announce(adapter._at())
                step, adapter._branch = adapter._step, 0
                # What a step goes from and to. Tensors of their own: what is shown is no view of the schedule.
                levels = self.sigmas[step : step + 2].clone()
                if (shown := adapter.probe("input.sigma", levels)) is not levels:
                    self.sigmas[step : step + 2] = shown
                made = super().step(adapter.probe("guided", model_output), timestep, sample, *args, **kwargs)
                return (adapter.probe("latent", made[0]), *made[1:])

        Shown.__name__ = kind.__name__
        return Shown

    def _at(self, *branches: str) -> Pass:
        sigma = self._sigmas[self._step] if self._step < len(self._sigmas) else None
        return Pass(DENOISE, self._step, sigma, branches or ("",))

    def _begin_step(self) -> None:
        self._step, self._begun = self._step + 1, True
        self._announce(self._at())

    def _attach(self) -> Iterator[RemovableHandle]:
        """Hook every module that tells a pass, or shows a site: those that bear the names now."""
        find = self.find
        yield self._transformer.register_forward_pre_hook(self._before_branch, with_kwargs=True)
        yield find("transformer", "text_embedding").register_forward_pre_hook(self._shown_first("input.prompt_emb"))
        yield find("vae", "conv2").register_forward_pre_hook(self._before_decoding)
        decoder = find("vae", "decoder")
        yield decoder.register_forward_pre_hook(self._before_latent)
        yield decoder.register_forward_hook(self._after_latent)
        yield self._transformer.register_forward_hook(self._shown("velocity"))
        for name, row in self._rows.items():
            if name.endswith(".attended"):
                last = find("transformer", f"{name.removesuffix('attended')}o")
                yield last.register_forward_pre_hook(self._shown_first(name))
            elif not is_input(name) and name not in _BETWEEN:
                component = "vae" if DECODE in row.phases else "transformer"
                yield find(component, _MODULES.get(name, name)).register_forward_hook(self._shown(name))

    def _shown(self, site: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A hook that shows what a module returns."""
        return lambda module, args, output: self.probe(site, output)

    def _shown_first(self, site: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        """A hook that shows the first argument of a module."""
        return lambda module, args: (self.probe(site, args[0]), *args[1:])

    def _before_branch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first call of a step has the prompt, the second one has not."""
        if self._branch == 0 and not self._begun:
            self._begin_step()
        self._begun = False
        self._announce(self._at(BRANCHES[self._branch]))
        self._branch = (self._branch + 1) % len(BRANCHES)
        return args, self.with_timestep(kwargs, lambda timestep: self.probe("input.timestep", timestep))

    def _before_decoding(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self._announce(Pass(DECODE))
        return (self.probe("unscaled", args[0]), *args[1:])

    def _before_latent(self, module: nn.Module, args: Any) -> None:
        if self._latent:
            self._announce(Pass(DECODE, self._latent))
        self._latent += 1

    def _after_latent(self, module: nn.Module, args: Any, decoded: Tensor) -> None:
        self.probe("picture", as_pictures(decoded))


def as_pictures(decoded: Tensor) -> Tensor:
    """The pictures [n,H,W,3] uint8 that values [1,3,n,H,W] from -1 to 1 are."""
    levels = ((decoded[0].clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _tokens(output: Tensor, inputs: object) -> Tensor:
    """[1,D,T,h,w] as tokens [1,T*h*w,D]."""
    return output.flatten(2).transpose(1, 2)


def _volume(shown: Tensor, output: Tensor) -> Tensor:
    """The way back."""
    return shown.transpose(1, 2).reshape(output.shape)
