"""A session of the official engine, announced pass by pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch._dynamo.config
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.process_settings import compiler_stance
from waypoint_parity.reference.session_rules import check_prompt, running_schedule
from waypoint_parity.reference.world_engine.autoencoders import Autoencoder
from waypoint_parity.reference.world_engine.engine import Conditioning
from waypoint_parity.reference.world_engine.package import Package
from waypoint_parity.reference.world_engine.taps import CACHE, Taps


class Session:
    """Drives the engine's own passes. Model, sampler, caches, frame clock and autoencoder are the package's."""

    def __init__(
        self,
        package: Package,
        engine: Any,
        taps: Taps,
        conditioning: Conditioning,
        autoencoder: Autoencoder,
        *,
        compiled: bool,
    ) -> None:
        self._package = package
        self._engine = engine
        self._taps = taps
        self._conditioning = conditioning
        self._compiled = compiled
        self._inputs: dict[str, Tensor] = {}
        self._sigmas: Tensor | None = None
        self._built_with: Tensor = engine.scheduler_sigmas[:2]
        self._autoencoder = autoencoder

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin: clock 0, nothing written. Raises UserError where a prompt does not fit the model."""
        engine, show = self._engine, self._taps.show
        check_prompt(prompt, engine.model_cfg.prompt_conditioning)
        engine.reset()
        self._sigmas = self._cast(sigmas)
        self._conditioning.tabulate(self._sigmas)
        self._taps.tap_conditioning()
        if prompt is not None:
            yield Pass("prompt")
            engine._prompt_ctx = {
                "prompt_emb": show("input.prompt_emb", self._cast(prompt.embedding)),
                "prompt_pad_mask": show("input.prompt_pad_mask", prompt.pad_mask.to(engine.device)),
            }

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Take `image` as the next frame: encoded, and written to the caches under idle controls.

        `image` uint8 is [360,640,3], or [4,H,W,3] for an autoencoder that makes one latent of four pictures.
        """
        self._schedule()
        yield Pass("image", sigma=0.0)
        pixels = self._taps.show("input.image", image.to(self._engine.device))
        latent = self._taps.show("latent", self._cast(self._autoencoder.encode(pixels)))
        x = latent.unsqueeze(1)
        self._take(x, self._idle())
        self._cache_pass(x)
        if self._autoencoder.decodes_seed:
            yield from self._decode(latent)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Denoise `noise` [1,1,C,h*ph,w*pw] fp32 along the schedule, write the frame to the caches, decode it."""
        x = noise
        for step, pair in enumerate(pairwise(self._schedule())):
            yield Pass("denoise", step, pair[0].item())
            if step == 0:
                x = self._cast(noise)
                self._take(x, controls)
                x = self._taps.show("input.noise", x)
            x = self._taps.show("latent", self._denoise_pass(x, torch.stack(pair)))
        yield Pass("cache", sigma=0.0)
        self._cache_pass(x)
        yield from self._decode(x.squeeze(1))

    def denoise_once(self, noise: Tensor) -> Tensor:
        """One step from `noise` under idle controls, by the schedule that the engine was built with."""
        self._take(noise, self._idle())
        return self._denoise_pass(noise, self._built_with)

    def _decode(self, latent: Tensor) -> Iterator[Pass]:
        yield Pass("decode")
        self._taps.show("frame", self._autoencoder.decode(latent))

    def _idle(self) -> Controls:
        return Controls(torch.zeros(self._engine.model_cfg.n_buttons), torch.zeros(2), torch.zeros(1))

    def _take(self, x: Tensor, controls: Controls) -> None:
        """Hand the controls of a frame to the engine, whose clock moves on with them."""
        show = self._taps.show
        control = self._package.engine.CtrlInput(
            button=_pressed(show("input.button", self._cast(controls.button))),
            mouse=tuple(show("input.mouse", self._cast(controls.mouse)).tolist()),
            scroll_wheel=show("input.scroll", self._cast(controls.scroll)).item(),
        )
        with self._in_force():
            self._inputs = self._engine.prep_inputs(x=x, ctrl=control)

    def _denoise_pass(self, x: Tensor, pair: Tensor) -> Tensor:
        """One Euler step: the engine's whole loop, over a schedule of two sigmas."""
        self._engine.scheduler_sigmas = pair
        self._taps.denoising = True
        with self._in_force():
            latent: Tensor = self._engine._denoise_pass(x, self._inputs, self._engine.kv_cache)
        self._taps.denoising = False
        # A compiled pass reuses what it hands out.
        return latent.clone()

    def _cache_pass(self, x: Tensor) -> None:
        """A pass of the clean latent, run for its keys and values; then the caches are shown."""
        with self._in_force():
            self._engine._cache_pass(x, self._inputs, self._engine.kv_cache)
        for index, layer in enumerate(self._engine.kv_cache.layers):
            for part in CACHE:
                buffer = getattr(layer, part)
                shown = self._taps.show(f"kv_cache.layers.{index}.{part}", buffer)
                if shown is not buffer:
                    buffer.copy_(shown)

    @contextmanager
    def _in_force(self) -> Iterator[None]:
        """What a call of the engine needs of the process; between calls the process is as its owner left it."""
        compiler = dict(self._package.compiler) if self._compiled else {}
        with compiler_stance(compiled=self._compiled), torch._dynamo.config.patch(compiler):
            yield

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(device=self._engine.device, dtype=self._engine.dtype)

    def _schedule(self) -> Tensor:
        # Waypoint 1 has a table of rotations; Waypoint 1.5 computes them for whatever frame it is.
        longest = None if self._package.release.is_waypoint_15 else self._engine.model_cfg.n_frames
        return running_schedule(self._sigmas, int(self._engine.frame_ts), longest)


def _pressed(button: Tensor) -> set[int]:
    """The buttons that are down, as the engine takes them. Raises UserError for one that is neither down nor up."""
    if partial := sorted(set(button.tolist()) - {0.0, 1.0}):
        raise UserError(
            "world_engine takes buttons that are down or up",
            found=f"button values {partial}",
            expected="0 or 1",
            do="use a scenario with whole button presses",
        )
    return set(button.nonzero().flatten().tolist())
