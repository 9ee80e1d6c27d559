"""A session: frames generated one after another, each seeing those before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from waypoint_parity.candidate.attention import PromptKeys
from waypoint_parity.candidate.blocks import FramePlan
from waypoint_parity.candidate.engine import Engine
from waypoint_parity.candidate.model import Waypoint


@dataclass(frozen=True)
class Step:
    """What a session is about to run: the phase, the number of the denoise step, the noise level."""

    phase: Literal["prompt", "image", "denoise", "cache", "decode"]
    number: int = 0
    sigma: float | None = None


class Schedule:
    """The noise levels of a session, rounded to the model's dtype, as are the differences between them."""

    def __init__(self, sigmas: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        rounded = sigmas.to(dtype)
        self.sigmas: list[float] = rounded.tolist()
        self.deltas = rounded.diff().to(device).unbind()
        # One tensor [1,1] per level, that of the cache pass included: its cond is remembered by this tensor.
        self.levels = {sigma: torch.full((1, 1), sigma, dtype=dtype, device=device) for sigma in {*self.sigmas, 0.0}}


class Memory:
    """What passes have in common, computed once.

    That is: cond and modulations of a noise level, the rotation of a frame, the fusions' products with its controls.
    Remembered by the tensor it comes from, not by that tensor's value. So a tensor that a probe puts in the place of
    another has its full effect, and is not remembered in that other's name.
    """

    def __init__(self, model: Waypoint, levels: int) -> None:
        # One more than a session cycles through: else a single stray tensor would have every level computed anew.
        self.cond = lru_cache(maxsize=levels + 1)(model.noise_conditioner.__call__)
        self.modulations = lru_cache(maxsize=levels + 1)(model.modulator.__call__)
        self.control = lru_cache(maxsize=1)(model.read_control)
        self.rotation = lru_cache(maxsize=1)(model.rope.__call__)


class Session:
    """Owns the clock, the sampler and what a session remembers. Nothing in a pass waits for the device.

    An engine serves one session at a time: the next one takes over its rings. (No frame sees a slot that was not
    written in its own session, so the rings need no clearing.)

    `read_prompt`, `append_image` and `generate` are generators: each yields every step just before running it.
    """

    def __init__(self, engine: Engine, sigmas: Tensor) -> None:
        """`sigmas` [S+1] fp32, from 1 to 0."""
        self.engine = engine
        self.schedule = Schedule(sigmas, engine.dtype, engine.device)
        self.memory = Memory(engine.model, len(self.schedule.levels))
        self.prompt: tuple[PromptKeys | None, ...] = (None,) * engine.model.config.n_layers
        engine.autoencoder.reset()
        self.seek(0)

    def seek(self, clock: int) -> None:
        """Make `clock` the frame in work: for the host and, [1,1] int64, where the model computes."""
        self.clock = clock
        self.timestamp = torch.full((1, 1), clock, dtype=torch.int64, device=self.engine.device)

    @torch.no_grad()
    def read_prompt(self, embedding: Tensor, pad_mask: Tensor) -> Iterator[Step]:
        """Attend to this prompt from now on: `embedding` [1,P,E], zero where `pad_mask` [1,P] is true."""
        yield Step("prompt")
        self.engine.consume("prompt_pad_mask", pad_mask)
        consumed = self.engine.consume("prompt_emb", embedding, self.engine.dtype)
        self.prompt = self.engine.model.read_prompt(consumed)

    @torch.no_grad()
    def append_image(self, image: Tensor) -> Iterator[Step]:
        """Give the next frame: `image`, [H,W,3] or [4,H,W,3] uint8, is encoded and remembered, with idle controls."""
        engine = self.engine
        yield Step("image", sigma=0.0)
        latent = engine.latent(engine.autoencoder.encoder(engine.consume("image", image)).to(engine.dtype))[:, None]
        control = self.embed(torch.zeros(engine.model.config.n_buttons), torch.zeros(2), torch.zeros(1))
        self._remember(latent, control)
        if engine.model.config.generation.decodes_given:
            yield Step("decode")
            self.decode(latent)

    @torch.no_grad()
    def generate(self, noise: Tensor, button: Tensor, mouse: Tensor, scroll: Tensor) -> Iterator[Step]:
        """The next frame: Euler steps, the cache pass, the picture.

        `noise` [1,1,C,h*ph,w*pw], `button` [n_buttons], `mouse` [2], `scroll` [1].
        """
        engine = self.engine
        sigmas = self.schedule.sigmas[:-1]
        for number, (sigma, delta) in enumerate(zip(sigmas, self.schedule.deltas, strict=True)):
            yield Step("denoise", number, sigma)
            if number == 0:
                latent, control = engine.consume("noise", noise, engine.dtype), self.embed(button, mouse, scroll)
            velocity = engine.velocity(self.transform(latent, self.schedule.levels[sigma], control))
            latent = engine.latent(self.euler_step(latent, velocity, delta))
        yield Step("cache", sigma=0.0)
        self._remember(latent, control)
        yield Step("decode")
        self.decode(latent)

    def euler_step(self, latent: Tensor, velocity: Tensor, delta: Tensor) -> Tensor:
        """`latent` one noise level on, `delta` [] away."""
        return self.engine.model.config.generation.euler_step(latent, velocity, delta)

    def decode(self, latent: Tensor) -> None:
        """Show what `latent` [1,1,C,h*ph,w*pw] looks like."""
        autoencoder = self.engine.autoencoder
        autoencoder.decoder(latent[:, 0].to(autoencoder.dtype))

    def transform(self, latent: Tensor, sigma: Tensor, control: Tensor) -> Tensor:
        """One transformer pass over the frame in work at `sigma` [1,1]: `latent` [1,1,C,h*ph,w*pw] -> its velocity."""
        engine, memory = self.engine, self.memory
        level = engine.inputs["sigma"](sigma)
        timestamp = engine.inputs["timestamp"](self.timestamp)
        cond = engine.denoise_step_emb(memory.cond(level))
        rotation = memory.rotation(timestamp, engine.dtype)
        local = engine.local_window(engine.local.at(self.clock))
        dilated = engine.dilated_window(engine.dilated.at(self.clock))
        return engine.transformer(
            latent,
            memory.modulations(cond),
            self.prompt,
            memory.control(engine.ctrl_emb(control)),
            tuple(cache.ring for cache in engine.rings),
            FramePlan(rotation, local, dilated),
        )

    def _remember(self, latent: Tensor, control: Tensor) -> None:
        """The cache pass of a finished frame: its keys and values take the place of those of its noisier passes."""
        self.transform(latent, self.schedule.levels[0.0], control)
        self.observe()
        self.seek(self.clock + 1)

    def observe(self) -> None:
        """Take note that the pass of the frame in work was its last."""
        for cache in self.engine.rings:
            cache.observe(self.clock)

    def embed(self, button: Tensor, mouse: Tensor, scroll: Tensor) -> Tensor:
        """The control embedding [1,1,M]."""
        given = {"mouse": mouse, "button": button, "scroll": scroll}
        consumed = [self.engine.consume(name, value, self.engine.dtype) for name, value in given.items()]
        embedding: Tensor = self.engine.model.control_embedding(*consumed)
        return embedding
