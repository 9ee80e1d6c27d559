"""A session: frames generated one after another, each denoised against the cached frames before it."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.reference.eager.autoencoder import Autoencoder
from waypoint_parity.reference.eager.kv_cache import KVCache
from waypoint_parity.reference.eager.model import WorldModel
from waypoint_parity.reference.eager.taehv import Taehv
from waypoint_parity.reference.session_rules import check_prompt, running_schedule

INPUTS = ("noise", "image", "prompt_emb", "prompt_pad_mask", "button", "mouse", "scroll", "sigma", "timestamp")


class Session(nn.Module):
    """Owns the frame clock, the sampler and the caches. Its generators announce each pass just before running it.

    A value that is a site and that no module returns goes through a probe, an `nn.Identity` with the site's name. The
    session continues with what the probe returns.
    """

    def __init__(
        self, model: WorldModel, autoencoder: Autoencoder | Taehv, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype
        self.model = model
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder
        self._forget_pictures = autoencoder.reset
        self.decodes_seed = model.generation.decodes_seed
        self.kv_cache = KVCache(model.config)
        self.input = nn.ModuleDict({name: nn.Identity() for name in INPUTS})
        self.velocity = nn.Identity()
        self.latent = nn.Identity()
        self.frame = nn.Identity()
        self.clock = 0
        self.prompt: Tensor | None = None
        self.sigmas: Tensor | None = None

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin: clock 0, nothing written, no picture remembered.

        `sigmas` [S+1] fp32; they are rounded to the session's dtype.

        Raises UserError where the model takes a prompt and none is given, and where it takes none and one is given.
        """
        check_prompt(prompt, self.model.config.prompt_conditioning)
        self.clock = 0
        self.sigmas = self._cast(sigmas)
        self.kv_cache.reset(self.device, self.dtype)
        self._forget_pictures()
        self.prompt = None
        if prompt is not None:
            yield Pass("prompt")
            self.prompt = self.input["prompt_emb"](self._cast(prompt.embedding))
            self.input["prompt_pad_mask"](prompt.pad_mask.to(self.device))  # shown only: the model ignores it

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Take `image` as the next frame: encode it, write it to the caches under idle controls.

        `image` uint8 is [360,640,3], or [4,H,W,3] for an autoencoder that makes one latent of four pictures.
        """
        self._schedule()
        yield Pass("image", sigma=0.0)
        latent = self.latent(self._cast(self.encoder(self.input["image"](image.to(self.device)))))
        idle = Controls(torch.zeros(self.model.config.n_buttons), torch.zeros(2), torch.zeros(1))
        self._cache_pass(latent.unsqueeze(1), self._take(idle))
        if self.decodes_seed:
            yield Pass("decode")
            self.frame(self.decoder(latent))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Denoise `noise` [1,1,C,h*ph,w*pw] fp32 along the schedule, write the frame to the caches, decode it."""
        x = noise
        for step, (sigma, following) in enumerate(pairwise(self._schedule())):
            yield Pass("denoise", step, sigma.item())
            if step == 0:
                x, controls = self.input["noise"](self._cast(noise)), self._take(controls)
            sigma = self.input["sigma"](sigma.view(1, 1))
            velocity = self.velocity(self._predict(x, sigma, controls))
            x = self.latent(self.model.generation.step(x, following - sigma, velocity))
        yield Pass("cache", sigma=0.0)
        self._cache_pass(x, controls)
        yield Pass("decode")
        self.frame(self.decoder(x[:, 0]))

    def component(self, name: str) -> Callable[[int, Pass, Mapping[str, Tensor]], None] | None:
        """Begin anew with one component; what is returned runs a call of it, on the inputs of these sites."""
        self.clock = 0
        self.kv_cache.reset(self.device, self.dtype)
        self._forget_pictures()
        return {"transformer": self._transform, "vae": self._code}.get(name)

    def _transform(self, unit: int, at: Pass, inputs: Mapping[str, Tensor]) -> None:
        """One call of the transformer; but for a denoise step, its keys and values are kept."""
        x = inputs["input.noise"] if at.phase == "denoise" and at.step == 0 else inputs["latent"]
        x = x.view(1, 1, *x.shape[-3:])
        controls = Controls(*(inputs[f"input.{name}"] for name in ("button", "mouse", "scroll")))
        self.clock, self.prompt = int(inputs["input.timestamp"]), inputs.get("input.prompt_emb")
        velocity = self._predict(x, inputs["input.sigma"], controls)
        if at.phase == "denoise":
            self.velocity(velocity)
        else:
            self.kv_cache.commit(self.clock)

    def _code(self, unit: int, at: Pass, inputs: Mapping[str, Tensor]) -> None:
        """One call of the encoder or the decoder."""
        if at.phase == "image":
            self.encoder(inputs["input.image"])
        else:
            latent = inputs["latent"]
            self.frame(self.decoder(latent.view(1, *latent.shape[-3:])))

    def _predict(self, x: Tensor, sigma: Tensor, controls: Controls) -> Tensor:
        """One transformer pass at the present clock: velocity, in the shape of `x`."""
        timestamp = self.input["timestamp"](torch.full((1, 1), self.clock, dtype=torch.int64, device=self.device))
        velocity: Tensor = self.model(x, sigma, timestamp, self.prompt, controls, self.kv_cache)
        return velocity

    def _cache_pass(self, x: Tensor, controls: Controls) -> None:
        """A pass of the clean latent, run for its keys and values; with it the frame is history."""
        sigma = self.input["sigma"](torch.zeros(1, 1, dtype=self.dtype, device=self.device))
        self._predict(x, sigma, controls)
        self.kv_cache.commit(self.clock)
        self.clock += 1

    def _take(self, controls: Controls) -> Controls:
        """The controls of a frame as the model consumes them."""
        return Controls(
            button=self.input["button"](self._cast(controls.button)),
            mouse=self.input["mouse"](self._cast(controls.mouse)),
            scroll=self.input["scroll"](self._cast(controls.scroll)),
        )

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(device=self.device, dtype=self.dtype)

    def _schedule(self) -> Tensor:
        longest = self.model.config.n_frames if self.model.generation.ends else None
        return running_schedule(self.sigmas, self.clock, longest)
