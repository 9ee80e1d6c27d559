"""The blocks of the tests' repository, with the state keys of Waypoint's pipeline on the hub."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import AutoModel
from diffusers.modular_pipelines import ModularPipelineBlocks, PipelineState, SequentialPipelineBlocks
from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam
from PIL import Image
from torch import Tensor
from transformers import UMT5EncoderModel

TRANSFORMER = ComponentSpec("transformer", AutoModel)
VAE = ComponentSpec("vae", AutoModel)
CONTROLS = ("button_tensor", "mouse_tensor", "scroll_tensor")
PASS = ("prompt_embeds", "prompt_pad_mask", *CONTROLS, "kv_cache", "frame_timestamp")


def run(transformer: Any, block: Any, x: Tensor, sigma: Tensor, *, frozen: bool) -> Tensor:
    """One pass of the transformer."""
    block.kv_cache.set_frozen(frozen)
    velocity: Tensor = transformer(
        x,
        sigma.view(1, 1),
        frame_timestamp=block.frame_timestamp,
        prompt_emb=block.prompt_embeds,
        prompt_pad_mask=block.prompt_pad_mask,
        button=block.button_tensor,
        mouse=block.mouse_tensor,
        scroll=block.scroll_tensor,
        kv_cache=block.kv_cache,
    )
    return velocity


class TextEncoderStep(ModularPipelineBlocks):
    """Never runs: it needs an encoder of ten gigabytes."""

    expected_components = [ComponentSpec("text_encoder", UMT5EncoderModel)]  # noqa: RUF012
    inputs = [InputParam("prompt")]  # noqa: RUF012
    intermediate_outputs = [OutputParam("prompt_embeds"), OutputParam("prompt_pad_mask")]  # noqa: RUF012

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        raise AssertionError("the scenario brings the embeddings")


class ControllerStep(ModularPipelineBlocks):
    expected_components = [TRANSFORMER]  # noqa: RUF012
    inputs = [  # noqa: RUF012
        InputParam("button", default=set()),
        InputParam("mouse", default=(0.0, 0.0)),
        InputParam("scroll", default=0),
    ]
    intermediate_outputs = [OutputParam(name) for name in CONTROLS]  # noqa: RUF012

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        like = components.transformer.patchify.weight
        block.button_tensor = like.new_zeros(1, 1, components.transformer.config.n_buttons)
        block.button_tensor[..., sorted(block.button)] = 1
        block.mouse_tensor = like.new_tensor(block.mouse).view(1, 1, 2)
        block.scroll_tensor = like.new_tensor([block.scroll]).sign().view(1, 1, 1)
        self.set_block_state(state, block)
        return components, state


class BeforeDenoiseStep(ModularPipelineBlocks):
    expected_components = [TRANSFORMER, VAE]  # noqa: RUF012
    inputs = [InputParam(name) for name in (*PASS, "image", "latents", "scheduler_sigmas")]  # noqa: RUF012
    intermediate_outputs = [  # noqa: RUF012
        OutputParam(name) for name in ("kv_cache", "frame_timestamp", "latents", "scheduler_sigmas")
    ]

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block, transformer = self.get_block_state(state), components.transformer
        like = transformer.patchify.weight
        if block.scheduler_sigmas is None:
            block.scheduler_sigmas = like.new_tensor(transformer.config.scheduler_sigmas)
        if block.kv_cache is None:
            block.kv_cache = transformer.new_cache()
            block.frame_timestamp = torch.zeros(1, 1, dtype=torch.int64, device=like.device)
        if block.image is not None:
            self._seed(components, block)
        if block.latents is None:
            block.latents = torch.randn(1, 1, *transformer.geometry.latent_shape).to(like)
        self.set_block_state(state, block)
        return components, state

    def _seed(self, components: Any, block: Any) -> None:
        """The image's latent goes to the cache under idle controls."""
        latent = components.vae.encode(torch.from_numpy(np.array(block.image))).to(block.button_tensor.dtype)
        given = {name: getattr(block, name) for name in CONTROLS}
        for name, control in given.items():
            setattr(block, name, torch.zeros_like(control))
        run(components.transformer, block, latent.unsqueeze(1), latent.new_zeros(1), frozen=False)
        for name, control in given.items():
            setattr(block, name, control)
        block.frame_timestamp = block.frame_timestamp + 1


class DenoiseStep(ModularPipelineBlocks):
    expected_components = [TRANSFORMER]  # noqa: RUF012
    inputs = [InputParam(name) for name in (*PASS, "latents", "scheduler_sigmas")]  # noqa: RUF012
    intermediate_outputs = [OutputParam("latents"), OutputParam("frame_timestamp")]  # noqa: RUF012

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        x = block.latents
        for sigma, following in pairwise(block.scheduler_sigmas):
            x = x + (following - sigma) * run(components.transformer, block, x, sigma, frozen=True)
        run(components.transformer, block, x, torch.zeros_like(sigma), frozen=False)
        block.latents, block.frame_timestamp = x, block.frame_timestamp + 1
        self.set_block_state(state, block)
        return components, state


class DecodeStep(ModularPipelineBlocks):
    expected_components = [VAE]  # noqa: RUF012
    inputs = [InputParam("latents"), InputParam("output_type", default="pil")]  # noqa: RUF012
    intermediate_outputs = [OutputParam("images"), OutputParam("latents")]  # noqa: RUF012

    def __call__(self, components: Any, state: PipelineState) -> tuple[Any, PipelineState]:
        block = self.get_block_state(state)
        pixels = components.vae.decode(block.latents[:, 0].float())
        block.images = [Image.fromarray(pixels.cpu().numpy())] if block.output_type == "pil" else pixels
        block.latents = None
        self.set_block_state(state, block)
        return components, state


class ToyBlocks(SequentialPipelineBlocks):
    block_classes = [TextEncoderStep, ControllerStep, BeforeDenoiseStep, DenoiseStep, DecodeStep]  # noqa: RUF012
    block_names = ["text_encoder", "controller", "before_denoise", "denoise", "decode"]  # noqa: RUF012
