"""The driver of a modular pipeline of diffusers."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.paused_call import PausedCall
from waypoint_parity.harness.run.process_settings import compiler_stance
from waypoint_parity.reference.modular_diffusers.pipeline import PATCHED, TRUST, identity, load_pipeline
from waypoint_parity.reference.modular_diffusers.watch import Watch


class ModularDiffusersAdapter(FrameByFrame):
    """Drives `ModularPipeline` as its users do: `pipe(...)`, then `pipe(state, ...)`; see harness.run.adapter.Adapter.

    One call makes a whole frame, and the first also takes the seed image: the call runs in a thread that waits before
    every pass. So the image is encoded when the first frame is asked for, still within the pass that was announced for
    it. The sampler, the frame clock and the caches are the pipeline's.

    Compiled, functions that the pipeline compiles stay compiled; else they run eagerly. Nothing else is compiled.
    """

    OPTIONS = (TRUST, PATCHED)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._checkpoint, self._numerics = checkpoint, numerics
        self._pipe = load_pipeline(checkpoint, numerics)
        self._watch = Watch(self._pipe.transformer, self._pipe.vae, checkpoint.geometry.transformer)
        self._session: dict[str, Any] = {}
        self._state: Any = None
        self._image: Image.Image | None = None

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the pipeline."""
        import diffusers

        return {
            "version": f"diffusers {diffusers.__version__}",
            "revision": identity(self._checkpoint.origin),
            "modules": "apply_inference_patches" if PATCHED in self._numerics.options else "as loaded",
            "autoencoder": "float32",
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site that the pipeline's modules show by their names, and what passes between them."""
        return self._watch.sites(self._checkpoint.geometry)

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written."""
        self._state, self._image = None, None
        self._session = {"scheduler_sigmas": self._cast(sigmas), "output_type": "pil"}
        if prompt is not None:
            yield Pass("prompt")
            self._session["prompt_embeds"] = self._watch.show("input.prompt_emb", self._cast(prompt.embedding))
            pad_mask = prompt.pad_mask.to(self._numerics.device)
            self._session["prompt_pad_mask"] = self._watch.show("input.prompt_pad_mask", pad_mask)

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give the first frame. Raises UserError where it is not the first: a call makes the frame after the image."""
        if self._state is not None or self._image is not None:
            raise UserError(
                "a modular pipeline takes an image at the beginning of a session only",
                found="an image after a frame",
                expected="at most one image, before every generated frame",
                do="give the image first, or begin another session",
            )
        yield Pass("image", sigma=0.0)
        self._image = Image.fromarray(self._watch.show("input.image", image).cpu().numpy())

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame: denoise, write the caches, decode."""
        given = self._session | {
            "latents": self._cast(noise),
            "button": pressed(controls.button),
            "mouse": tuple(controls.mouse.tolist()),
            "scroll": controls.scroll.item(),
            "image": self._image,
        }
        call = PausedCall(lambda: self._call(given), partial(compiler_stance, compiled=self._numerics.compiled))
        self._watch.begin(seeding=self._image is not None)
        self._watch.announce = call.pause
        return call.passes()

    def _call(self, given: dict[str, Any]) -> None:
        """One call of the pipeline; the state that it returns is what the next one goes on from."""
        state = self._pipe(**given) if self._state is None else self._pipe(self._state, **given)
        self._state, self._image = state, None
        self._watch.show("frame", _pixels(state.values["images"]))

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(device=self._numerics.device, dtype=self._numerics.dtype)


def pressed(button: Tensor) -> set[int]:
    """The ids of the buttons that are down in `button` [n_buttons]. Raises UserError for one that is half down."""
    down = button > 0
    if not torch.equal(down.to(button), button):
        raise UserError(
            "a modular pipeline takes buttons by their ids",
            found=f"values {sorted(set(button.tolist()))}",
            expected="0 or 1 for every button",
            do="use a scenario whose buttons are up or down",
        )
    return set(down.nonzero().flatten().tolist())


def _pixels(images: Any) -> Tensor:
    """The frame [360,640,3] uint8 that a pipeline returns as an image, or as a batch of one."""
    while isinstance(images, list | tuple):
        (images,) = images
    return torch.from_numpy(np.array(images.convert("RGB")))
