"""Drives FastVideo's Waypoint port for the harness."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.fastvideo.port import load_port
from waypoint_parity.candidate.fastvideo.probes import insert_probes
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame, matching_sites
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.process_settings import compiler_stance
from waypoint_parity.harness.run.sources import UNTESTED

OWN_NOISE = "own-noise"
_INPUTS = ("noise", "image", "prompt_emb", "prompt_pad_mask", "button", "mouse", "scroll", "sigma", "timestamp")


class FastVideoAdapter(FrameByFrame):
    """Drives the port's transformer, cache and autoencoder; see harness.run.adapter.Adapter.

    The port's streaming stage draws its noise and runs all passes of a frame in one call. The adapter takes its place,
    with the same frame clock, Euler steps and casts. `own-noise` ignores the given noise and draws as the stage does:
    by a generator seeded `seed` + frame clock, on the run's device and in its dtype. A session has no seed: set `seed`
    before `start`, or leave the stage's default.
    """

    OPTIONS = (OWN_NOISE, UNTESTED)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self.seed = 0
        self._checkpoint = checkpoint
        self._numerics = numerics
        self._port = load_port(checkpoint, numerics)
        self._blocks = [insert_probes(block) for block in self._port.model.transformer.blocks]
        caches = [f"kv_cache.layers.{layer}" for layer in range(checkpoint.geometry.transformer.n_layers)]
        names = [*(f"input.{name}" for name in _INPUTS), "velocity", "latent", "frame"]
        self._probes = {name: nn.Identity() for name in names}
        self._probes |= {f"{cache}.{part}": nn.Identity() for cache in caches for part in ("kv", "written")}
        self._clock = 0
        self._sigmas: Tensor | None = None
        self._prompt: dict[str, Tensor] = {}

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the port."""
        compiled = self._numerics.compiled
        own_noise = OWN_NOISE in self._numerics.options
        return {
            "version": self._port.version,
            "attention": f"flex_attention, {'compiled' if compiled else 'eager'}",
            "autoencoder": "float32, weight norm not baked",
            "noise": f"its own: a generator seeded {self.seed} + frame clock" if own_noise else "as given",
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site that this checkpoint's model has. A block without a part does not have that part's sites."""
        geometry = self._checkpoint.geometry
        sites = {**matching_sites(self._port.model, geometry), **matching_sites(self._port.autoencoder, geometry)}
        for layer, probes in enumerate(self._blocks):
            sites |= {f"transformer.blocks.{layer}{name}": Site(probe) for name, probe in probes.items()}
        return sites | {name: Site(probe) for name, probe in self._probes.items()}

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written. Raises UserError without a prompt: the port requires one."""
        if prompt is None:
            raise UserError(
                "FastVideo's Waypoint port requires a prompt",
                found="no prompt",
                expected="a prompt",
                do="use a scenario that was recorded for this checkpoint",
            )
        self._clock = 0
        self._sigmas = self._cast(sigmas)
        self._port.cache.reset()
        yield Pass("prompt")
        self._prompt = {
            "prompt_emb": self._probes["input.prompt_emb"](self._cast(prompt.embedding)),
            "prompt_pad_mask": self._probes["input.prompt_pad_mask"](prompt.pad_mask.to(self._numerics.device)),
        }

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame: encode it, write it to the caches under idle controls."""
        self._started()
        yield Pass("image", sigma=0.0)
        latent = self._port.autoencoder.encode(self._probes["input.image"](image.to(self._numerics.device)))
        latent = self._probes["latent"](self._cast(latent))
        idle = Controls(torch.zeros(self._checkpoint.geometry.transformer.n_buttons), torch.zeros(2), torch.zeros(1))
        self._cache_pass(latent.unsqueeze(1), self._consumed(idle))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame: denoise, write the caches, decode."""
        sigmas = self._started()
        x, consumed = noise, {}
        for step, (sigma, following) in enumerate(pairwise(sigmas)):
            yield Pass("denoise", step, sigma.item())
            if step == 0:
                x = self._probes["input.noise"](self._own_noise() if self._draws_noise else self._cast(noise))
                consumed = self._consumed(controls)
            velocity = self._probes["velocity"](self._predict(x, sigma.view(1, 1), consumed))
            x = self._probes["latent"](x + (following - sigma) * velocity)
        yield Pass("cache", sigma=0.0)
        self._cache_pass(x, consumed)
        yield Pass("decode")
        self._probes["frame"](self._port.autoencoder.decode(x[:, 0].float()))

    @property
    def _draws_noise(self) -> bool:
        return OWN_NOISE in self._numerics.options

    def _own_noise(self) -> Tensor:
        """The start noise [1,1,C,h*ph,w*pw] of the present frame, as the port's streaming stage draws it."""
        device, dtype = self._numerics.device, self._numerics.dtype
        generator = torch.Generator(device).manual_seed(self.seed + self._clock)
        shape = (1, 1, *self._checkpoint.geometry.transformer.latent_shape)
        return torch.randn(shape, device=device, dtype=dtype, generator=generator)

    def _predict(self, x: Tensor, sigma: Tensor, consumed: Mapping[str, Tensor]) -> Tensor:
        """One transformer pass at the present clock: velocity, in the shape of `x`."""
        timestamp = torch.full((1, 1), self._clock, dtype=torch.int64, device=self._numerics.device)
        # The port compiles its attention when it is imported.
        with compiler_stance(compiled=self._numerics.compiled):
            velocity: Tensor = self._port.model(
                x=x,
                sigma=self._probes["input.sigma"](sigma),
                frame_timestamp=self._probes["input.timestamp"](timestamp),
                kv_cache=self._port.cache,
                **self._prompt,
                **consumed,
            )
        return velocity

    def _cache_pass(self, x: Tensor, consumed: Mapping[str, Tensor]) -> None:
        """A pass of the clean latent, run for its keys and values."""
        cache = self._port.cache
        cache.set_frozen(False)
        self._predict(x, x.new_zeros(1, 1), consumed)
        cache.set_frozen(True)
        self._clock += 1
        for layer, ring in enumerate(cache.layers):
            for part in ("written", "kv"):
                buffer = getattr(ring, part)
                shown = self._probes[f"kv_cache.layers.{layer}.{part}"](buffer)
                if shown is not buffer:
                    buffer.copy_(shown)

    def _consumed(self, controls: Controls) -> dict[str, Tensor]:
        """The controls of a frame as the port's model takes them: [1,1,n] each, and only the sign of the scroll."""
        button = self._probes["input.button"](self._cast(controls.button))
        mouse = self._probes["input.mouse"](self._cast(controls.mouse))
        scroll = self._probes["input.scroll"](self._cast(controls.scroll))
        return {"button": button.view(1, 1, -1), "mouse": mouse.view(1, 1, -1), "scroll": scroll.sign().view(1, 1, -1)}

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(device=self._numerics.device, dtype=self._numerics.dtype)

    def _started(self) -> Tensor:
        """The schedule of the running session. Raises UserError before `start`."""
        if self._sigmas is None:
            raise UserError(
                "no session is running", found="a frame before start", expected="start first", do="call start"
            )
        return self._sigmas
