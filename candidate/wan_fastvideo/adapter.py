"""Drives FastVideo's WanPipeline for the harness."""

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.wan_fastvideo.source import Port, imported, placed
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.adapter import OWN_SCHEDULE, ClipByClip, Layout, Restore
from waypoint_parity.harness.families.wan.names import to_diffusers
from waypoint_parity.harness.families.wan.scenario import padded, pictures
from waypoint_parity.harness.run.adapter import Numerics, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sources import UNTESTED

# What FastVideo calls the transformer's modules where diffusers calls them otherwise: its mapping is one of weights.
_MODULES = (
    (r"condition_embedder\.time_proj", "condition_embedder.time_modulation"),
    (r"blocks\.(\d+)\.attn1\.to_out\.0", r"blocks.\1.to_out"),
    # The block has no module of it: what it makes, the last projection returns.
    (r"blocks\.(\d+)\.attn1", r"blocks.\1.to_out"),
    (r"blocks\.(\d+)\.attn1\.(.+)", r"blocks.\1.\2"),
    (r"blocks\.(\d+)\.attn2\.to_out\.0", r"blocks.\1.attn2.to_out"),
    (r"blocks\.(\d+)\.norm2", r"blocks.\1.self_attn_residual_norm.norm"),
    (r"blocks\.(\d+)\.norm3", r"blocks.\1.cross_attn_residual_norm.norm"),
)
# These modules return a pair: what they make, and a bias that this model leaves in.
_PAIRS = re.compile(r"blocks\.\d+\.(self_attn|(self|cross)_attn\.[qkv])")


class WanFastVideoAdapter(ClipByClip):
    """Drives `WanPipeline.forward`, all its stages, as it stands; see harness.run.adapter.Adapter.

    It is given models that hold the checkpoint's weights, and latents and embeddings, as its users may give them. Its
    scheduler is on the recorded schedule, or with `own-schedule` on the one that it makes of the shift and the number
    of steps. `candidate/wan_fastvideo/source.py` has everything that stands in for something else.
    """

    OPTIONS = (OWN_SCHEDULE, UNTESTED)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        if numerics.dtype is not torch.float32 or numerics.compiled:
            raise UserError(
                "FastVideo's Wan is driven eagerly in fp32",
                found=f"{numerics.dtype_name}{', compiled' if numerics.compiled else ''}",
                expected="fp32: its bf16 is that of a GPU's autocast",
                do="give --dtype fp32",
            )
        self._numerics, self._own = numerics, OWN_SCHEDULE in numerics.options
        with imported(numerics.device, untested=UNTESTED in numerics.options) as port:
            self._port = port
            self._arguments = _arguments(port, checkpoint)
            self._models = _models(port, self._arguments.pipeline_config, checkpoint, numerics)
        super().__init__(self._models["transformer"], checkpoint.geometry)
        self._scheduler = self.scheduler(port.pipeline.FlowUniPCMultistepScheduler, own=self._own)
        names = inspect.signature(self._transformer.forward)
        self._transformer.register_forward_pre_hook(
            lambda module, args, kwargs: ((), dict(names.bind(*args, **kwargs).arguments)), with_kwargs=True
        )

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the pipeline."""
        return {
            "version": f"fastvideo {self._port.version}",
            "attention": "FastVideo's SDPA backend, named by its CPU platform",
            "schedule": "its own" if self._own else "as recorded",
            "precision": "float32 where the denoising stage has bfloat16; autoencoder in float32",
            "given": "weights, embeddings and noise; UMT5 is not loaded; a process group of one",
        }

    def find(self, component: str, name: str) -> nn.Module:
        """The module that FastVideo calls otherwise."""
        named = to_diffusers(component, name)
        if component == "transformer":
            fitting = (re.sub(theirs, ours, named) for theirs, ours in _MODULES if re.fullmatch(theirs, named))
            named = next(fitting, named)
        return self._models[component].get_submodule(named)

    def sites(self) -> Mapping[str, Site]:
        """Every site of the family; of a pair, what the module makes."""
        pair = (lambda made, inputs: made[0], lambda shown, made: (shown, *made[1:]))
        return {
            name: Site(site.module, *pair) if _PAIRS.fullmatch(name) else site for name, site in super().sites().items()
        }

    def velocity(self) -> tuple[Layout, Restore]:
        """[1,C,T,h,w] as it is."""
        return lambda made, inputs: made, lambda shown, made: shown

    def with_timestep(self, arguments: dict[str, Any], show: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The argument `timestep`."""
        return {**arguments, "timestep": show(arguments["timestep"])}

    def surroundings(self) -> AbstractContextManager[object]:
        """With FastVideo's modules in place."""
        return _surroundings(self._port)

    def call(self, scenario: Scenario, unit: int) -> Tensor:
        """One call of the pipeline, which is built for its shift."""
        count, height, width = pictures(scenario)
        self._arguments.pipeline_config.flow_shift = scenario.numbers["shift"]
        batch = self._port.batch.ForwardBatch(
            data_type="video",
            prompt="",
            prompt_embeds=[self._placed(padded(scenario["prompt_emb"], self._geometry))],
            negative_prompt_embeds=[self._placed(padded(scenario["negative_emb"], self._geometry))],
            latents=self._placed(scenario["noise"][unit][None]),
            height=height,
            width=width,
            num_frames=count,
            num_inference_steps=scenario["timesteps"].shape[0],
            guidance_scale=scenario.numbers["guidance"],
            seed=0,
        )
        made: Tensor = self._pipeline().forward(batch, self._arguments).output
        return made * 2 - 1

    def _pipeline(self) -> Any:
        """A `WanPipeline` without its `__init__`, which would load the models; its stages are made by itself."""
        module = self._port.pipeline
        vars(module)["FlowUniPCMultistepScheduler"] = self._scheduler
        pipeline = object.__new__(module.WanPipeline)
        pipeline.modules, pipeline.fastvideo_args = dict(self._models), self._arguments
        pipeline._stages, pipeline._stage_name_mapping = [], {}
        pipeline.post_init()
        stage = pipeline.latent_preparation_stage
        prepare = stage.forward

        def prepared(batch: Any, arguments: Any) -> Any:
            batch = prepare(batch, arguments)
            batch.latents = self.show_noise(batch.latents)
            return batch

        stage.forward = prepared
        return pipeline

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._numerics.device)


def _arguments(port: Port, checkpoint: Checkpoint) -> Any:
    """FastVideo's arguments for this checkpoint: nothing is moved off the device, no precision below fp32."""
    geometry = checkpoint.geometry.transformer
    config = port.config.WanT2V480PConfig(precision="fp32", vae_precision="fp32", vae_decode_precision="fp32")
    config.dit_config.arch_config = port.config.WanVideoArchConfig(
        num_attention_heads=geometry.num_heads,
        attention_head_dim=geometry.dim // geometry.num_heads,
        in_channels=geometry.in_dim,
        out_channels=geometry.out_dim,
        text_dim=geometry.text_dim,
        freq_dim=geometry.freq_dim,
        ffn_dim=geometry.ffn_dim,
        num_layers=geometry.num_layers,
        eps=geometry.eps,
    )
    config.vae_config.arch_config = port.config.WanVAEArchConfig(**checkpoint.geometry.to_json()["vae"])
    return port.settings.FastVideoArgs(
        model_path="",
        pipeline_config=config,
        disable_autocast=True,
        dit_cpu_offload=False,
        dit_layerwise_offload=False,
        text_encoder_cpu_offload=False,
        image_encoder_cpu_offload=False,
        vae_cpu_offload=False,
    )


def _models(port: Port, config: Any, checkpoint: Checkpoint, numerics: Numerics) -> dict[str, nn.Module]:
    """Transformer and autoencoder, by FastVideo's own mapping of names. It has no encoder for text-to-video."""
    transformer = port.transformer.WanTransformer3DModel(config.dit_config, {})
    names = [(re.compile(old), new) for old, new in transformer.param_names_mapping.items()]
    weights = {}
    for key, tensor in checkpoint.weights("transformer").items():
        name = to_diffusers("transformer", key)
        weights[next((old.sub(new, name) for old, new in names if old.match(name)), name)] = tensor
    transformer.load_state_dict(weights)
    autoencoder = port.autoencoder.AutoencoderKLWan(config.vae_config)
    decoding = {to_diffusers("vae", key): tensor for key, tensor in checkpoint.weights("vae").items()}
    autoencoder.load_state_dict({key: tensor for key, tensor in decoding.items() if not key.startswith("encoder.")})
    models = {"transformer": transformer, "vae": autoencoder}
    return {name: model.to(numerics.device).eval().requires_grad_(False) for name, model in models.items()}


@contextmanager
def _surroundings(port: Port) -> Iterator[None]:
    with placed(port.modules), warnings.catch_warnings(action="ignore"):
        yield
