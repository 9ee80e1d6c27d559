"""The driver of Self-Forcing: builds its pipeline, makes chunks with it, says where to watch."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.adapter import ChunkByChunk
from waypoint_parity.harness.families.causal_wan.scenario import padded
from waypoint_parity.harness.families.causal_wan.sites import CLEAN, DENOISE
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.paused_call import PausedCall
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.reference.causal_wan.package import Package, imported
from waypoint_parity.reference.wan.adapter import FP32_PHASES, attention, fp32_sinusoid

# Tokens of a latent at the only size that the published code is for. It attends to at most so many for each slot.
_TOKENS = 1560
# What the official code calls the modules of sites whose names are shorter.
_MODULES = {"time_projection": "time_projection.1", "head": "head.head"}


class SelfForcingAdapter(ChunkByChunk):
    """Drives `CausalInferencePipeline.inference` as it stands; see harness.run.adapter.Adapter.

    In the place of what it would load, draw or call, it is given: a model that holds the checkpoint's weights, recorded
    embeddings and noise, the recorded schedule, caches of the model's size, and attention in fp32 for a kernel that
    rounds to bf16. Its decoder is not run. `describe` names all of it.
    """

    OPTIONS = (FP32_PHASES, UNTESTED)
    # Another formulation, which must not matter: no port has to have fp64.
    HARMLESS = (FP32_PHASES,)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._numerics = numerics
        if numerics.dtype is not torch.float32 or numerics.compiled:
            raise UserError(
                "Self-Forcing is driven eagerly in fp32",
                found=f"{numerics.dtype_name}{', compiled' if numerics.compiled else ''}",
                expected="fp32: its bf16 is that of a GPU's kernel",
                do="give --dtype fp32",
            )
        super().__init__(checkpoint.geometry)
        with imported(untested=UNTESTED in numerics.options) as package, warnings.catch_warnings(action="ignore"):
            self._version = package.version
            self._pipeline = self._build(package, checkpoint)
        # From here on the modules are those of this adapter alone: nobody else imports them.
        rotate = package.causal.causal_rope_apply
        package.causal.causal_rope_apply = lambda *args, **kwargs: self.rotated(rotate(*args, **kwargs))
        package.causal.attention = lambda q, k, v: attention(q, *self.attending(k, v))
        package.model.flash_attention = lambda q, k, v, **_: attention(q, *self.attending_text(k, v))
        if FP32_PHASES in numerics.options:
            package.causal.sinusoidal_embedding_1d = fp32_sinusoid
        self._draws = _Torch()
        # It prints every timestep.
        vars(package.pipeline).update(torch=self._draws, print=lambda *_: None)
        self._running: PausedCall | None = None
        self._unit, self._step, self._steps, self._begun = 0, -1, 0, False

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the official code."""
        return {
            "version": self._version,
            "attention": "scaled_dot_product_attention in the place of flash_attention",
            "schedule": "as recorded",
            "phases": "float32" if FP32_PHASES in self._numerics.options else "float64",
            "given": "weights, embeddings, noise of every step, and new caches of the model's size for every session",
            "decoder": "not run: latents are what comes out",
        }

    def find(self, name: str) -> nn.Module:
        """The module of this name."""
        model: nn.Module = self._pipeline.generator.model
        return model.get_submodule(_MODULES.get(name, name))

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session: one call of the pipeline."""
        height, width = scenario["noise"].shape[4:]
        if (tokens := height * width // 4) > _TOKENS:
            raise UserError(
                "Self-Forcing attends to less than its window where a latent is so large",
                found=f"{tokens} tokens of a latent",
                expected=f"at most {_TOKENS}, those of 480 x 832 pixels",
                do="take a scenario with smaller latents",
            )
        self._unit, self._step, self._begun = 0, -1, False
        self._steps, self.latents = scenario["noise"].shape[1], scenario["noise"].shape[3]
        self._prepare(scenario, tokens)
        with ExitStack() as attached:
            for handle in (*self.attach(), *self._attach_loop()):
                attached.callback(handle.remove)
            self._running = PausedCall(partial(self._make, scenario["noise"]), _quietly)
            yield from ((self._unit, at) for at in self._running.passes())

    def show(self, site: str, value: Any) -> Any:
        """Show a value where the session is watched, which is outside of the call."""
        assert self._running is not None, "nothing is shown outside of a session"
        return self._running.outside(lambda: self._probes[site](value))

    def _make(self, noise: Tensor) -> None:
        """The call: all chunks. It is given [1,F,C,h,w], and draws [N,C,h,w] for each step but a chunk's first."""
        noise = noise.to(self._numerics.device)
        self._draws.noise = lambda: self._begin_step(noise[self._unit, self._step + 1][None])[0].transpose(0, 1)
        first = noise[:, 0].transpose(1, 2).flatten(0, 1)
        self._pipeline.inference(first[None], ["the prompt"])

    def _begin_step(self, noise: Tensor) -> Tensor:
        """Announce the next step, and show what it begins with: noise [1,C,N,h,w], and its level."""
        self._step, self._begun = self._step + 1, True
        scheduler, step = self._pipeline.scheduler, self._step
        self._announce(Pass(DENOISE, step, float(scheduler.sigmas[step])))
        noise = self.show("input.noise", noise)
        # A tensor of its own: what is shown is no view of the schedule.
        level = scheduler.sigmas[step : step + 1].clone()
        if (shown := self.show("input.sigma", level)) is not level:
            scheduler.sigmas[step : step + 1] = shown
        return noise

    def _announce(self, at: Pass) -> None:
        assert self._running is not None, "no pass is announced outside of a session"
        self.at = at
        self._running.pause(at)

    def _attach_loop(self) -> Iterator[RemovableHandle]:
        """Hook the model, and the wrapper that makes an estimate of what it returns."""
        wrapper = self._pipeline.generator
        yield wrapper.register_forward_pre_hook(self._before, with_kwargs=True)
        yield wrapper.model.register_forward_pre_hook(self._timestep, with_kwargs=True)
        yield wrapper.model.register_forward_hook(lambda module, args, output: self.show("velocity", output))
        yield wrapper.register_forward_hook(self._after)

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """A step begins with its draw, but the first, which is given it. Behind the last step comes the clean pass."""
        name = "noisy_image_or_video"
        entering = kwargs[name].transpose(1, 2)
        if self._step + 1 == self._steps and not self._begun:
            self._announce(Pass(CLEAN, sigma=0.0))
        elif not self._begun:
            entering = self._begin_step(entering)
        self._begun = False
        return args, {**kwargs, name: self.show("entering", entering).transpose(1, 2)}

    def _timestep(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "t": self.show("input.timestep", kwargs["t"])}

    def _after(self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor] | None:
        """The estimate of the clean latents, behind a step. The clean pass ends a chunk."""
        if self.at.phase == DENOISE:
            return output[0], self.show("latent", output[1].transpose(1, 2)).transpose(1, 2)
        self._unit, self._step = self._unit + 1, -1
        return None

    def _prepare(self, scenario: Scenario, tokens: int) -> None:
        """What the pipeline's own `__init__`, and its first call, would make for a model of the published size."""
        pipeline, geometry, device = self._pipeline, self._geometry, self._numerics.device
        pipeline.frame_seq_length, pipeline.num_frame_per_block = tokens, self.latents
        pipeline.args = SimpleNamespace(context_noise=scenario.numbers["context"])
        pipeline.denoising_step_list = scenario["timesteps"].to(device)
        pipeline.scheduler.timesteps = scenario["timesteps"].to(device)
        pipeline.scheduler.sigmas = scenario["sigmas"].to(device, copy=True)
        prompt = padded(scenario["prompt_emb"], geometry).to(device)
        pipeline.text_encoder = lambda text_prompts: {"prompt_embeds": prompt}
        config = geometry.transformer
        heads = (config.num_heads, config.dim // config.num_heads)
        pipeline.kv_cache1 = [self._cache_of(geometry.slots * tokens, heads) for _ in self._layers]
        pipeline.crossattn_cache = [{"is_init": False} for _ in self._layers]

    def _cache_of(self, tokens: int, heads: tuple[int, int]) -> dict[str, Tensor]:
        ends = {name: torch.zeros(1, dtype=torch.int64) for name in ("global_end_index", "local_end_index")}
        made = {name: torch.zeros(1, tokens, *heads) for name in "kv"}
        return {name: tensor.to(self._numerics.device) for name, tensor in (made | ends).items()}

    def _build(self, package: Package, checkpoint: Checkpoint) -> Any:
        """A pipeline without its `__init__`, which would load published weights; and so with the wrapper in it."""
        told = checkpoint.geometry.to_json()["transformer"]
        model = package.causal.CausalWanModel(model_type="t2v", **told)
        model.load_state_dict(checkpoint.weights("transformer"))
        wrapper = _bare(package.wrapper.WanDiffusionWrapper)
        wrapper.model = model.to(self._numerics.device).eval().requires_grad_(False)
        wrapper.uniform_timestep = False
        wrapper.scheduler = package.wrapper.FlowMatchScheduler(shift=5.0, sigma_min=0.0, extra_one_step=True)
        wrapper.seq_len = checkpoint.geometry.slots * _TOKENS
        pipeline = _bare(package.pipeline.CausalInferencePipeline)
        pipeline.generator, pipeline.scheduler = wrapper, wrapper.get_scheduler()
        pipeline.num_transformer_blocks = checkpoint.geometry.transformer.num_layers
        pipeline.local_attn_size = checkpoint.geometry.local_attn_size
        pipeline.independent_first_frame = False
        pipeline.vae = SimpleNamespace(decode_to_pixel=lambda latents, use_cache: latents)
        return pipeline


def _bare(kind: type[nn.Module]) -> Any:
    """A module without what its own class makes."""
    made = object.__new__(kind)
    nn.Module.__init__(made)
    return made


def _quietly() -> AbstractContextManager[object]:
    return warnings.catch_warnings(action="ignore")


class _Torch:
    """In the place of torch in the pipeline's module: the recorded noise, where it would draw one."""

    noise: Callable[[], Tensor]

    def randn_like(self, tensor: Tensor) -> Tensor:
        noise = self.noise()
        assert noise.shape == tensor.shape, "noise of another shape"
        return noise

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)
