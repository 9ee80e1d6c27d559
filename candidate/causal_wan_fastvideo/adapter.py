"""Drives FastVideo's causal Wan for the harness."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.causal_wan_fastvideo.source import PortModules, imported
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.causal_wan.adapter import ChunkByChunk
from waypoint_parity.harness.families.causal_wan.scenario import padded
from waypoint_parity.harness.families.causal_wan.sites import CLEAN, DENOISE
from waypoint_parity.harness.families.wan.names import to_diffusers
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sources import UNTESTED

# Modules that show a site and have no weights, or whose names no rule for weights gives. `*` is a block's number.
_MODULES = (
    ("patch_embedding", "patch_embedding"),
    ("text_embedding", "condition_embedder.text_embedder"),
    ("time_embedding", "condition_embedder.time_embedder"),
    ("time_projection", "condition_embedder.time_modulation"),
    ("head", "proj_out"),
    (r"blocks\.(\d+)\.norm1", r"blocks.\1.norm1"),
    (r"blocks\.(\d+)\.self_attn", r"blocks.\1.attn1"),
    (r"blocks\.(\d+)\.self_attn\.o", r"blocks.\1.to_out"),
    (r"blocks\.(\d+)\.self_attn\.([qkv])", r"blocks.\1.to_\2"),
    (r"blocks\.(\d+)\.self_attn\.(norm_[qk])", r"blocks.\1.\2"),
    # Both norms stand in modules that also add what came before, and scale what comes out.
    (r"blocks\.(\d+)\.norm3", r"blocks.\1.self_attn_residual_norm.norm"),
    (r"blocks\.(\d+)\.cross_attn", r"blocks.\1.attn2"),
    (r"blocks\.(\d+)\.cross_attn\.o", r"blocks.\1.attn2.to_out"),
    (r"blocks\.(\d+)\.cross_attn\.q", r"blocks.\1.attn2.to_q"),
    (r"blocks\.(\d+)\.cross_attn\.norm_q", r"blocks.\1.attn2.norm_q"),
    (r"blocks\.(\d+)\.norm2", r"blocks.\1.cross_attn_residual_norm.norm"),
    (r"blocks\.(\d+)\.ffn", r"blocks.\1.ffn"),
    (r"blocks\.(\d+)", r"blocks.\1"),
)


class CausalWanFastVideoAdapter(ChunkByChunk):
    """Drives the port's transformer and scheduler; see harness.run.adapter.Adapter.

    The port's denoising stage draws its noise, and computes in bf16 whatever it is given. The adapter takes its place,
    with the same calls in the same order: the model, the estimate of the clean latents, noise mixed in by the
    scheduler, and a last call for keys and values. A timestep is given for each latent.
    """

    OPTIONS = (UNTESTED,)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self.checkpoint, self._numerics = checkpoint, numerics
        if numerics.compiled:
            raise UserError(
                "FastVideo's causal Wan is driven eagerly",
                found="compiled",
                expected="eager",
                do="leave --compiled out",
            )
        super().__init__(checkpoint.geometry)
        with imported(untested=UNTESTED in numerics.options) as port:
            self._port = port
            self.model = self._build(port, checkpoint)
            # The estimate follows the recorded schedule, whatever the scheduler has made of its own.
            self.scheduler = port.scheduler.SelfForcingFlowMatchScheduler(shift=5.0)
        rotate = port.causal._apply_rotary_emb
        # From here on the modules are those of this adapter alone: nobody else imports them.
        port.causal._apply_rotary_emb = lambda x, *args, **kwargs: self.rotated(rotate(x, *args, **kwargs).type_as(x))

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the port."""
        return {
            "version": self._port.version,
            "attention": "scaled_dot_product_attention, as the port dispatches it where it names no other",
            "schedule": "as recorded",
            "loop": "the adapter's, of the port's model and scheduler: its stage computes in bf16 and draws its noise",
            "decoder": "not run: latents are what comes out",
        }

    def find(self, name: str) -> nn.Module:
        """The module that has an official name."""
        for ours, theirs in _MODULES:
            if found := re.fullmatch(ours, name):
                module: nn.Module = self.model.get_submodule(found.expand(theirs))
                return module
        raise KeyError(name)

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session, chunk by chunk."""
        noise, timesteps = self._cast(scenario["noise"]), scenario["timesteps"].to(self._numerics.device)
        self.scheduler.timesteps = timesteps
        self.scheduler.sigmas = scenario["sigmas"].to(self._numerics.device, copy=True)
        self.latents, first = noise.shape[3], 0
        prompt = self._cast(padded(scenario["prompt_emb"], self._geometry))
        tokens = noise.shape[4] * noise.shape[5] // 4
        self.begin(tokens)
        with ExitStack() as attached:
            for handle in self.attach():
                attached.callback(handle.remove)
            for layer in self._layers:
                for attention, shown in (("attn1", self.attending), ("attn2", self.attending_text)):
                    kernel = self.model.blocks[layer].get_submodule(f"{attention}.attn")
                    hook = kernel.register_forward_pre_hook(lambda _, args, shown=shown: (args[0], *shown(*args[1:3])))
                    attached.callback(hook.remove)
            for unit in range(scenario.units):
                latent = noise[unit, 0][None]
                for step in range(len(timesteps)):
                    self.at = Pass(DENOISE, step, float(self.scheduler.sigmas[step]))
                    yield unit, self.at
                    x = self.show("entering", self.entering(latent, noise[unit, step][None], step))
                    latent = self.estimate(x, self.predict(x, timesteps[step], prompt, first), step)
                    latent = self.show("latent", latent)
                self.at = Pass(CLEAN, sigma=0.0)
                yield unit, self.at
                context = torch.tensor(scenario.numbers["context"], device=noise.device)
                self.predict(self.show("entering", latent), context, prompt, first)
                first += self.latents

    def begin(self, tokens: int) -> None:
        """New caches, for latents of so many tokens; and no tables of the rotation that another session has made."""
        self._port.rotation._ROTARY_POS_EMBED_CACHE.clear()
        config = self._geometry.transformer
        heads = (config.num_heads, config.dim // config.num_heads)
        self.caches = [self._cache_of(self._geometry.slots * tokens, heads) for _ in self._layers]
        self.text_caches: list[dict[str, Any]] = [{"is_init": False} for _ in self._layers]

    def entering(self, latent: Tensor, noise: Tensor, step: int) -> Tensor:
        """What a step begins with [1,C,N,h,w]: noise, or noise mixed into the estimate `latent` of the step before."""
        noise, sigmas = self.show("input.noise", noise), self.scheduler.sigmas
        # A tensor of its own: what is shown is no view of the schedule.
        level = sigmas[step : step + 1].clone()
        if (shown := self.show("input.sigma", level)) is not level:
            sigmas[step : step + 1] = shown
        if step == 0:
            return noise
        timestep = self.scheduler.timesteps[step].expand(self.latents)
        mixed: Tensor = self.scheduler.add_noise(_by_latent(latent), _by_latent(noise), timestep)
        return mixed.transpose(0, 1)[None]

    def estimate(self, x: Tensor, velocity: Tensor, step: int) -> Tensor:
        """The clean latents [1,C,N,h,w], as a step sees them."""
        timestep = self.scheduler.timesteps[step].expand(self.latents)
        made: Tensor = self._port.conversion.pred_noise_to_pred_video(
            _by_latent(velocity), _by_latent(x), timestep, self.scheduler
        )
        return made.transpose(0, 1)[None]

    def predict(self, x: Tensor, timestep: Tensor, prompt: Tensor, first: int) -> Tensor:
        """One call of the model for a chunk whose first latent is the session's `first`: the velocity."""
        tokens = x.shape[3] * x.shape[4] // 4
        with self._port.context.set_forward_context(current_timestep=0, attn_metadata=None):
            velocity: Tensor = self.model(
                x,
                prompt,
                self.show("input.timestep", timestep.expand(1, self.latents).clone()),
                kv_cache=self.caches,
                crossattn_cache=self.text_caches,
                current_start=first * tokens,
                start_frame=first,
            )
        shown: Tensor = self.show("velocity", velocity)
        return shown

    def _cache_of(self, tokens: int, heads: tuple[int, int]) -> dict[str, Tensor]:
        """The cache of a layer, as the port's stage makes it."""
        device, dtype = self._numerics.device, self._numerics.dtype
        made = {name: torch.zeros(1, tokens, *heads, dtype=dtype, device=device) for name in "kv"}
        ends = ("global_end_index", "local_end_index")
        return made | {name: torch.zeros(1, dtype=torch.int64, device=device) for name in ends}

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._numerics.device, dtype=self._numerics.dtype)

    def _build(self, port: PortModules, checkpoint: Checkpoint) -> Any:
        config, window = self._geometry.transformer, self._geometry
        arch = port.configs.WanVideoArchConfig(
            num_attention_heads=config.num_heads,
            attention_head_dim=config.dim // config.num_heads,
            in_channels=config.in_dim,
            out_channels=config.out_dim,
            text_dim=config.text_dim,
            freq_dim=config.freq_dim,
            ffn_dim=config.ffn_dim,
            num_layers=config.num_layers,
            eps=config.eps,
            local_attn_size=window.local_attn_size,
            sink_size=window.sink_size,
        )
        # A class attribute of the port's, which its configs cannot be given.
        arch.text_len = config.text_len
        model = port.causal.CausalWanTransformer3DModel(port.configs.WanVideoConfig(arch_config=arch), {})
        rules = type(model).param_names_mapping
        weights = checkpoint.weights("transformer")
        named = {_renamed(to_diffusers("transformer", key), rules): tensor for key, tensor in weights.items()}
        model.load_state_dict(named)
        return model.to(device=self._numerics.device, dtype=self._numerics.dtype).eval().requires_grad_(False)


def _renamed(key: str, rules: dict[str, str]) -> str:
    """What the port calls a weight that diffusers calls `key`: by the first of its own rules that fits."""
    for pattern, name in rules.items():
        if found := re.match(pattern, key):
            return found.expand(name)
    return key


def _by_latent(x: Tensor) -> Tensor:
    """[1,C,N,h,w] as [N,C,h,w]."""
    return x[0].transpose(0, 1)
