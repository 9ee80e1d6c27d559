"""The driver of the official Wan 2.1: builds its pipeline, makes clips with it, says where to watch."""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.adapter import OWN_SCHEDULE, ClipByClip, Layout, Restore
from waypoint_parity.harness.families.wan.config import LATENTS_MEAN, LATENTS_STD
from waypoint_parity.harness.families.wan.scenario import pictures
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.reference.wan.package import Package, imported

FP32_PHASES = "fp32-phases"
_PROMPT, _NEGATIVE = "the prompt", "the negative prompt"


class WanOfficialAdapter(ClipByClip):
    """Drives `WanT2V.generate` as it stands; see harness.run.adapter.Adapter.

    In the place of what it would load, draw or call, it is given: models that hold the checkpoint's weights, recorded
    embeddings and noise, the recorded schedule (unless it is to have its own), and attention in fp32 for a kernel that
    only a GPU has, and that rounds to bf16. `describe` names all of it.
    """

    OPTIONS = (OWN_SCHEDULE, FP32_PHASES, UNTESTED)
    # Another formulation, which must not matter: no port has to have fp64.
    HARMLESS = (FP32_PHASES,)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._numerics = numerics
        self._own = OWN_SCHEDULE in numerics.options
        _check(checkpoint, numerics)
        # Building draws initial weights, and its decorators ask for a GPU's autocast.
        with imported(untested=UNTESTED in numerics.options) as package, warnings.catch_warnings(action="ignore"):
            self._version = package.version
            self._pipeline = self._build(package, checkpoint)
        # From here on the modules are those of this adapter alone: nobody else imports them.
        self._module = package.pipeline
        package.model.flash_attention = attention
        if FP32_PHASES in numerics.options:
            package.model.sinusoidal_embedding_1d = fp32_sinusoid
        self._draws = _Torch()
        vars(self._module).update(torch=self._draws, tqdm=iter)
        super().__init__(self._pipeline.model, checkpoint.geometry)
        name = "FlowUniPCMultistepScheduler"
        vars(self._module)[name] = self.scheduler(vars(self._module)[name], own=self._own)

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the official code."""
        return {
            "version": self._version,
            "attention": "scaled_dot_product_attention in the place of flash_attention",
            "schedule": "its own" if self._own else "as recorded",
            "phases": "float32" if FP32_PHASES in self._numerics.options else "float64",
            "given": "weights, embeddings and noise; T5 is not loaded",
        }

    def find(self, component: str, name: str) -> nn.Module:
        """The module of this name."""
        root: nn.Module = self._pipeline.model if component == "transformer" else self._pipeline.vae.model
        return root.get_submodule(name)

    def velocity(self) -> tuple[Layout, Restore]:
        """The only one of a list of [C,T,h,w]."""
        return lambda made, inputs: made[0][None], lambda shown, made: [shown[0]]

    def with_timestep(self, arguments: dict[str, Any], show: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The argument `t`."""
        return {**arguments, "t": show(arguments["t"])}

    def surroundings(self) -> AbstractContextManager[object]:
        """Its autocast warns where there is no GPU."""
        return warnings.catch_warnings(action="ignore")

    def call(self, scenario: Scenario, unit: int) -> Tensor:
        """One call of `generate`."""
        count, height, width = pictures(scenario)
        self._draws.noise = lambda: self.show_noise(self._cast(scenario["noise"][unit][None]))[0]
        embeddings = {_PROMPT: scenario["prompt_emb"], _NEGATIVE: scenario["negative_emb"]}
        self._pipeline.text_encoder = _Text({name: self._cast(tensor) for name, tensor in embeddings.items()})
        video: Tensor = self._pipeline.generate(
            _PROMPT,
            size=(width, height),
            frame_num=count,
            shift=scenario.numbers["shift"],
            sampling_steps=scenario["timesteps"].shape[0],
            guide_scale=scenario.numbers["guidance"],
            n_prompt=_NEGATIVE,
            seed=0,
            offload_model=False,
        )
        return video[None]

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._numerics.device)

    def _build(self, package: Package, checkpoint: Checkpoint) -> Any:
        """A `WanT2V` without its `__init__`, which would load a text encoder and ask for a GPU."""
        config, device = checkpoint.geometry.transformer, self._numerics.device
        pipeline = object.__new__(package.pipeline.WanT2V)
        names = inspect.signature(package.model.WanModel.__init__).parameters
        told = {name: value for name, value in checkpoint.geometry.to_json()["transformer"].items() if name in names}
        model = package.model.WanModel(model_type="t2v", **told)
        model.load_state_dict(checkpoint.weights("transformer"))
        pipeline.model = model.to(device).eval().requires_grad_(False)
        pipeline.vae = self._autoencoder(package, checkpoint)
        pipeline.device, pipeline.rank, pipeline.t5_cpu, pipeline.sp_size = device, 0, False, 1
        pipeline.num_train_timesteps, pipeline.param_dtype = 1000, torch.float32
        pipeline.vae_stride, pipeline.patch_size = (4, 8, 8), config.patch_size
        pipeline.sample_neg_prompt = _NEGATIVE
        return pipeline

    def _autoencoder(self, package: Package, checkpoint: Checkpoint) -> Any:
        """A `WanVAE` of the checkpoint's width: the function that would load the published one is another."""
        config = checkpoint.geometry.autoencoder
        model = package.autoencoder.WanVAE_(
            dim=config.base_dim,
            z_dim=config.z_dim,
            dim_mult=[1, 2, 4, 4],
            num_res_blocks=2,
            attn_scales=[],
            temperal_downsample=[False, True, True],
            dropout=0.0,
        )
        model.load_state_dict(checkpoint.weights("vae"))
        package.autoencoder._video_vae = lambda **_: model
        return package.autoencoder.WanVAE(device=self._numerics.device)


class _Text:
    """In the place of T5EncoderModel: recorded embeddings, without padding."""

    def __init__(self, embeddings: Mapping[str, Tensor]) -> None:
        self._embeddings = embeddings
        self.model = nn.Identity()

    def __call__(self, texts: list[str], device: torch.device) -> list[Tensor]:
        return [self._embeddings[text] for text in texts]


class _Torch:
    """In the place of torch in the pipeline's module: the recorded noise, where it would draw one."""

    noise: Callable[[], Tensor]

    def randn(self, *size: int, **_: Any) -> Tensor:
        noise = self.noise()
        assert tuple(noise.shape) == size, "noise of another shape"
        return noise

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def attention(q: Tensor, k: Tensor, v: Tensor, k_lens: Tensor | None = None, **_: Any) -> Tensor:
    """What flash_attention does of [B,L,H,D]: softmax over the keys before `k_lens`, in the dtype of its inputs."""
    hidden = None
    if k_lens is not None and bool((k_lens < k.shape[1]).any()):
        hidden = (torch.arange(k.shape[1], device=k.device) < k_lens.to(k.device)[:, None])[:, None, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=hidden).transpose(1, 2).contiguous()


def fp32_sinusoid(width: int, timesteps: Tensor) -> Tensor:
    """The features [B,width] of timesteps [B], all cosines and then all sines, of phases in fp32."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=timesteps.device) * (-math.log(10000.0) / half))
    phases = timesteps.float()[:, None] * frequencies
    return torch.cat([phases.cos(), phases.sin()], 1)


def _check(checkpoint: Checkpoint, numerics: Numerics) -> None:
    """Raise UserError for what the official code does not have."""
    autoencoder = checkpoint.geometry.autoencoder
    if numerics.dtype is not torch.float32 or numerics.compiled:
        raise UserError(
            "the official Wan 2.1 is driven eagerly in fp32",
            found=f"{numerics.dtype_name}{', compiled' if numerics.compiled else ''}",
            expected="fp32: its bf16 is that of a GPU's autocast and kernel",
            do="give --dtype fp32",
        )
    if (autoencoder.latents_mean, autoencoder.latents_std) != (LATENTS_MEAN, LATENTS_STD):
        raise UserError(
            "the official Wan 2.1 scales latents by numbers of its own",
            found="another mean or deviation in vae/config.json",
            expected="those of the published autoencoder",
            do="name a checkpoint with that autoencoder",
        )
