"""A session: frames generated one after another, each seeing those before it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from candidate.attention import PromptKeys
from candidate.autoencoder import Autoencoder
from candidate.blocks import FramePlan
from candidate.kv_cache import RingCache, WindowTable, ring_shape
from candidate.model import Waypoint

INPUTS = ("prompt_emb", "prompt_pad_mask", "button", "mouse", "scroll", "noise", "image", "sigma", "timestamp")


@dataclass(frozen=True)
class Step:
    """What a session is about to run: the phase, the number of the denoise step, the noise level."""

    phase: Literal["prompt", "image", "denoise", "cache", "decode"]
    number: int = 0
    sigma: float | None = None


@dataclass(frozen=True)
class Prompt:
    """`embedding` [1,P,E], zero where `pad_mask` [1,P] is true."""

    embedding: Tensor
    pad_mask: Tensor


@dataclass(frozen=True)
class Controls:
    """The controls of a frame: `button` [n_buttons], `mouse` [2], `scroll` [1]."""

    button: Tensor
    mouse: Tensor
    scroll: Tensor


class Schedule:
    """The noise levels of a session, all rounded to the model's dtype."""

    def __init__(self, sigmas: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        rounded = sigmas.to(dtype)
        self.sigmas: list[float] = rounded.tolist()
        self.deltas = rounded.diff().to(device).unbind()
        # One tensor [1,1] per level: what is computed from a level is remembered by its tensor.
        self.levels = {sigma: torch.full((1, 1), sigma, dtype=dtype, device=device) for sigma in {*self.sigmas, 0.0}}


class Memory:
    """What passes have in common, computed once per source tensor: modulations and cond per noise level, the fusions'
    products per control embedding, the rotation per timestamp.

    The key is the tensor itself, not its value. So a tensor that a probe puts in the place of another has its full
    effect, and is not remembered in that other's name.
    """

    def __init__(self, model: Waypoint, levels: int) -> None:
        # One more than a session cycles through, or a single stray tensor would make every level be computed anew.
        self.cond = lru_cache(maxsize=levels + 1)(model.noise_conditioner.__call__)
        self.modulation = lru_cache(maxsize=levels + 1)(model.modulator.__call__)
        self.control = lru_cache(maxsize=1)(model.read_control)
        self.rotation = lru_cache(maxsize=1)(model.rope.__call__)


class Session:
    """Owns the clock, the sampler and the rings. Nothing in a pass waits for the device.

    `start`, `append_image` and `generate` are generators: each yields every step just before running it.
    """

    def __init__(self, model: Waypoint, autoencoder: Autoencoder, *, compiled: bool = False) -> None:
        self.model = model
        self.autoencoder = autoencoder
        self.transformer: Callable[..., Tensor] = compiled_pass(model) if compiled else model
        weight = model.unpatchify.weight
        self.dtype, self.device = weight.dtype, weight.device
        config = model.config
        self.rings = [RingCache(config, layer, self.dtype, self.device) for layer in range(config.n_layers)]
        self.local, self.dilated = (
            WindowTable(ring_shape(config, dilated=dilated), config.tokens, self.device) for dilated in (False, True)
        )
        # Sites.
        self.inputs = nn.ModuleDict({name: nn.Identity() for name in INPUTS})
        self.denoise_step_emb, self.ctrl_emb = nn.Identity(), nn.Identity()
        self.velocity, self.latent = nn.Identity(), nn.Identity()

    @torch.no_grad()
    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Step]:
        """Begin anew: clock 0, nothing in sight. `sigmas` [S+1] fp32, ending in 0.

        Raises ValueError where a prompt is given to a model that takes none, or none to one that does.
        """
        self._check(prompt)
        self._at(0)
        self.schedule = Schedule(sigmas, self.dtype, self.device)
        self.memory = Memory(self.model, len(self.schedule.levels))
        self.prompt: tuple[PromptKeys | None, ...] = (None,) * self.model.config.n_layers
        if prompt is not None:
            yield Step("prompt")
            self._consume("prompt_pad_mask", prompt.pad_mask)
            self.prompt = self.model.read_prompt(self._consume("prompt_emb", prompt.embedding, self.dtype))

    @torch.no_grad()
    def append_image(self, image: Tensor) -> Iterator[Step]:
        """Give the next frame: `image` [360,640,3] uint8 is encoded and remembered, with idle controls."""
        yield Step("image", sigma=0.0)
        latent = self.latent(self.autoencoder.encoder(self._consume("image", image)).to(self.dtype))
        idle = Controls(torch.zeros(self.model.config.n_buttons), torch.zeros(2), torch.zeros(1))
        self._remember(latent[:, None], self._embed(idle))

    @torch.no_grad()
    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Step]:
        """The next frame, from `noise` [1,1,C,h*ph,w*pw]: Euler steps, the cache pass, the picture."""
        *sigmas, _ = self.schedule.sigmas
        for number, (sigma, delta) in enumerate(zip(sigmas, self.schedule.deltas, strict=True)):
            yield Step("denoise", number, sigma)
            if number == 0:
                latent, control = self._consume("noise", noise, self.dtype), self._embed(controls)
            velocity = self.velocity(self._transform(latent, sigma, control))
            latent = self.latent(latent + delta * velocity)
        yield Step("cache", sigma=0.0)
        self._remember(latent, control)
        yield Step("decode")
        self.autoencoder.decoder(latent[:, 0].float())

    def _transform(self, latent: Tensor, sigma: float, control: Tensor) -> Tensor:
        """One transformer pass over the frame in work, `latent` [1,1,C,h*ph,w*pw] -> its velocity."""
        level = self.inputs["sigma"](self.schedule.levels[sigma])
        timestamp = self.inputs["timestamp"](self.timestamp)
        cond = self.denoise_step_emb(self.memory.cond(level))
        return self.transformer(
            latent,
            self.memory.modulation(cond),
            self.prompt,
            self.memory.control(self.ctrl_emb(control)),
            tuple(cache.ring for cache in self.rings),
            FramePlan(
                self.memory.rotation(timestamp, self.dtype), self.local.at(self.clock), self.dilated.at(self.clock)
            ),
        )

    def _remember(self, latent: Tensor, control: Tensor) -> None:
        """The cache pass of a finished frame. Its keys and values replace those of the frame's noisier passes."""
        self._transform(latent, 0.0, control)
        for cache in self.rings:
            cache.observe(self.clock)
        self._at(self.clock + 1)

    def _at(self, clock: int) -> None:
        """Set the clock, for the host and where the model computes."""
        self.clock = clock
        self.timestamp = torch.full((1, 1), clock, dtype=torch.int64, device=self.device)

    def _embed(self, controls: Controls) -> Tensor:
        """The control embedding [1,1,M]."""
        button = self._consume("button", controls.button, self.dtype)
        mouse = self._consume("mouse", controls.mouse, self.dtype)
        embedding: Tensor = self.model.control_embedding(
            mouse, button, self._consume("scroll", controls.scroll, self.dtype)
        )
        return embedding

    def _consume(self, name: str, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """An input where and as the model computes with it, past its probe."""
        consumed: Tensor = self.inputs[name](value.to(self.device, dtype or value.dtype))
        return consumed

    def _check(self, prompt: Prompt | None) -> None:
        takes_prompt = bool(self.model.config.prompt_layers)
        if takes_prompt == (prompt is not None):
            return
        raise ValueError(
            "the prompt does not suit the model\n"
            f"  found:    {'a prompt' if prompt else 'no prompt'}\n"
            f"  expected: {'a prompt: the model attends to one' if takes_prompt else 'none: the model takes none'}\n"
            f"  do:       {'give' if takes_prompt else 'drop'} the prompt, or load another checkpoint"
        )


def compiled_pass(model: Waypoint) -> Callable[..., Tensor]:
    """The transformer pass, compiled: one graph, or, where a hook watches a site inside, a graph between every two."""
    compiled = torch.compile(model)

    def transform(*inputs: object) -> Tensor:
        # By default, code compiled before a hook was attached goes on running as if it were not there.
        with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
            velocity: Tensor = compiled(*inputs)
        return velocity

    return transform
