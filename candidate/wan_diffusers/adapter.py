"""Drives diffusers' WanPipeline for the harness."""

import json
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.wan.adapter import OWN_SCHEDULE, ClipByClip, Layout, Restore
from waypoint_parity.harness.families.wan.config import diffusers_configs
from waypoint_parity.harness.families.wan.names import to_diffusers
from waypoint_parity.harness.families.wan.scenario import padded, pictures
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.harness.run.scenario import Scenario

TESTED_VERSION = "0.42.1"
PIP_LINE = f'pip install "diffusers=={TESTED_VERSION}" accelerate transformers'


class WanDiffusersAdapter(ClipByClip):
    """Drives `WanPipeline.__call__` as it stands; see harness.run.adapter.Adapter.

    It is given latents and embeddings, as its users may give them. Its scheduler, UniPC, is on the recorded schedule,
    or with `own-schedule` on the one that it makes of the shift and the number of steps. The autoencoder computes in
    fp32.
    """

    OPTIONS = (OWN_SCHEDULE,)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._numerics, self._own = numerics, OWN_SCHEDULE in numerics.options
        if numerics.compiled:
            raise UserError(
                "diffusers' WanPipeline is driven eagerly",
                found="compiled",
                expected="eager",
                do="leave --compiled out",
            )
        with preserved_settings(), warnings.catch_warnings(action="ignore"):
            self._diffusers = _import()
            self._pipeline = self._build(checkpoint)
        super().__init__(self._pipeline.transformer, checkpoint.geometry)
        self._scheduler = self.scheduler(self._diffusers.UniPCMultistepScheduler, own=self._own)
        prepare = self._pipeline.prepare_latents
        self._pipeline.prepare_latents = lambda *args, **kwargs: self.show_noise(prepare(*args, **kwargs))

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the pipeline."""
        return {
            "version": f"diffusers {self._diffusers.__version__}",
            "attention": "as diffusers dispatches it",
            "schedule": "its own" if self._own else "as recorded",
            "autoencoder": "float32",
        }

    def find(self, component: str, name: str) -> nn.Module:
        """The module that diffusers calls otherwise."""
        root: nn.Module = getattr(self._pipeline, component)
        return root.get_submodule(to_diffusers(component, name))

    def velocity(self) -> tuple[Layout, Restore]:
        """The only one of a tuple."""
        return lambda made, inputs: made[0], lambda shown, made: (shown,)

    def with_timestep(self, arguments: dict[str, Any], show: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """The argument `timestep`."""
        return {**arguments, "timestep": show(arguments["timestep"])}

    def surroundings(self) -> AbstractContextManager[object]:
        """Nothing: it sets nothing of the process."""
        return warnings.catch_warnings(action="ignore")

    def call(self, scenario: Scenario, unit: int) -> Tensor:
        """One call of the pipeline."""
        count, height, width = pictures(scenario)
        pipeline = self._pipeline
        pipeline.scheduler = self._scheduler(
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            num_train_timesteps=1000,
            flow_shift=scenario.numbers["shift"],
        )
        made = pipeline(
            height=height,
            width=width,
            num_frames=count,
            num_inference_steps=scenario["timesteps"].shape[0],
            guidance_scale=scenario.numbers["guidance"],
            latents=self._placed(scenario["noise"][unit][None]),
            prompt_embeds=self._placed(padded(scenario["prompt_emb"], self._geometry)),
            negative_prompt_embeds=self._placed(padded(scenario["negative_emb"], self._geometry)),
            output_type="pt",
        )
        # [1,n,3,H,W] from 0 to 1.
        video: Tensor = made.frames.transpose(1, 2) * 2 - 1
        return video

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._numerics.device)

    def _build(self, checkpoint: Checkpoint) -> Any:
        classes = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}
        dtypes = {"transformer": self._numerics.dtype, "vae": torch.float32}
        models = {}
        for component, values in diffusers_configs(checkpoint.geometry).items():
            # As a file holds them: lists, and no tuples.
            config = {key: value for key, value in json.loads(json.dumps(values)).items() if key[0] != "_"}
            model = getattr(self._diffusers, classes[component])(**config)
            weights = checkpoint.weights(component)
            model.load_state_dict({to_diffusers(component, key): tensor for key, tensor in weights.items()})
            models[component] = _cast(model, dtypes[component]).to(self._numerics.device).eval().requires_grad_(False)
        scheduler = self._diffusers.UniPCMultistepScheduler()
        pipeline = self._diffusers.WanPipeline(tokenizer=None, text_encoder=None, scheduler=scheduler, **models)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """A model in a dtype, what diffusers keeps in fp32 when it loads one left so."""
    if dtype is torch.float32:
        return model
    kept = tuple(getattr(model, "_keep_in_fp32_modules", None) or ())
    for name, parameter in model.named_parameters():
        if not set(kept).intersection(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return model


def _import() -> Any:
    try:
        import diffusers

        for name in ("WanPipeline", "WanTransformer3DModel", "AutoencoderKLWan", "UniPCMultistepScheduler"):
            getattr(diffusers, name)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise UserError(
            "diffusers with Wan is not installed",
            # Its last line is the cause where a module of diffusers could not be imported.
            found=" ".join(str(error).split()),
            expected=f"diffusers {TESTED_VERSION}, the tested version",
            do=PIP_LINE,
        ) from error
    return diffusers
