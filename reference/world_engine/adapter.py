"""The driver of the official package: builds its engine, runs sessions, says where to watch."""

import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.process_settings import ProcessSettings, preserved_settings
from waypoint_parity.reference.world_engine.autoencoders import Autoencoder, Dcae, StreamedTaehv
from waypoint_parity.reference.world_engine.block_lists import check_block_lists, read_as_masks
from waypoint_parity.reference.world_engine.engine import build_engine
from waypoint_parity.reference.world_engine.package import UNTESTED, import_package
from waypoint_parity.reference.world_engine.session import Session
from waypoint_parity.reference.world_engine.taps import Taps

PATCHED = "patched"


class WorldEngineAdapter(FrameByFrame):
    """Drives `world_engine.WorldEngine`; see harness.run.adapter.Adapter.

    `patched` runs the modules as the package's engine runs them, after apply_inference_patches; without it they run as
    they were trained. Compiled passes show what lies between them and no site inside. Sources of Waypoint 1.5 drive its
    checkpoints, those of Waypoint 1 drive its.

    Raises UserError where the package is not installed or not the tested revision, and for patches in fp32.
    """

    OPTIONS = (PATCHED, UNTESTED)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._checkpoint, self._numerics = checkpoint, numerics
        self._patched = PATCHED in numerics.options
        if self._patched and numerics.dtype is not torch.bfloat16:
            raise UserError(
                "the patches of world_engine look bf16 values up in tables",
                found=f"world-engine+{PATCHED} in {numerics.dtype_name}",
                expected="bf16",
                do=f"give --dtype bf16, or leave +{PATCHED} out",
            )
        config = checkpoint.geometry.transformer
        self._package = import_package(config.model_type, untested=UNTESTED in numerics.options)
        # Building draws initial weights, and warns that tables keep fp32.
        with preserved_settings(), warnings.catch_warnings(action="ignore"):
            self._engine, conditioning = build_engine(self._package, checkpoint, numerics, patched=self._patched)
        vae = self._engine.vae
        self._autoencoder: Autoencoder = StreamedTaehv(vae) if config.is_waypoint_15 else Dcae(vae)
        self._taps = Taps(self._engine, inside=not numerics.compiled)
        self._session = Session(
            self._package, self._engine, self._taps, conditioning, self._autoencoder, compiled=numerics.compiled
        )
        self._claims = self._check_block_lists() if config.is_waypoint_15 else {}

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the package."""
        return {
            "version": self._package.version,
            "sources": self._package.sources,
            "modules": "apply_inference_patches" if self._patched else "raw",
            "attention": f"flex_attention, {'compiled' if self._numerics.compiled else 'eager'}",
            "passes": "WorldEngine._denoise_pass over two sigmas at a time, WorldEngine._cache_pass",
            **self._autoencoder.claims,
            **self._claims,
            "float32_matmul_precision": ProcessSettings.read().matmul_precision,
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site that this checkpoint's model has; compiled, those between the passes."""
        return self._taps.sites() | self._autoencoder.sites(self._checkpoint.geometry)

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written."""
        return self._session.start(prompt, sigmas)

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame."""
        return self._session.append_image(image)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame."""
        return self._session.generate(noise, controls)

    def _check_block_lists(self) -> dict[str, str]:
        """What was done about hidden slots, and what else a claim about Waypoint 1.5 must name."""
        repair = None if self._numerics.compiled else self._read_as_masks
        return {
            "block lists": check_block_lists(self._engine, self._session.denoise_once, repair),
            "rope": "frequencies rounded through the model's dtype, then fp32",
            "noise conditioner": "weights and frequencies rounded through the model's dtype, then fp32",
            "sampler": "differences of the rounded sigmas, Euler step in fp32",
            "rotation clock": f"{self._engine.ts_mult} times the clock of the rings, made an int",
        }

    def _read_as_masks(self) -> None:
        self._taps.tap_masks()
        read_as_masks(self._engine.kv_cache, self._taps.show_visible)
