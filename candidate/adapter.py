"""Drives the native model for the harness: the only file of the native model that knows the harness."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.blocks import Block
from waypoint_parity.candidate.config import AutoencoderConfig, TaehvConfig, WaypointConfig
from waypoint_parity.candidate.dcae import Dcae, Ladder
from waypoint_parity.candidate.engine import Engine
from waypoint_parity.candidate.generation import WAYPOINT_15
from waypoint_parity.candidate.kv_cache import RingCache
from waypoint_parity.candidate.rope import Rotation
from waypoint_parity.candidate.session import Session, Step
from waypoint_parity.candidate.taehv import Grow, Taehv
from waypoint_parity.candidate.weights import load_autoencoder, load_waypoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint import config as families
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site


class CandidateAdapter(FrameByFrame):
    """The native implementation."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        geometry = WaypointConfig(**_fields(WaypointConfig, checkpoint.geometry.transformer))
        given = checkpoint.geometry.autoencoder
        kind = TaehvConfig if isinstance(given, families.TaehvConfig) else AutoencoderConfig
        codec = kind(**_fields(kind, given))
        self.engine = Engine(
            load_waypoint(geometry, checkpoint.weights("transformer"), numerics.dtype, numerics.device),
            load_autoencoder(codec, checkpoint.weights("vae"), numerics.dtype, numerics.device),
            compiled=numerics.compiled,
        )
        self._session: Session | None = None

    def describe(self) -> dict[str, str]:
        """What identifies this implementation besides its numerics."""
        return {
            "version": "native",
            "attention": "scaled_dot_product_attention over the visible slots, query heads folded",
            "weights": "merged QKV, split fusion, shared conditioning heads, baked weight norm",
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site, by its official name."""
        engine = self.engine
        modules: dict[str, nn.Module] = {f"input.{name}": probe for name, probe in engine.inputs.items()}
        modules |= {
            "denoise_step_emb": engine.denoise_step_emb,
            "ctrl_emb": engine.ctrl_emb,
            "patchify": engine.model.patchify,
            "out_norm": engine.model.out_norm,
            "velocity": engine.velocity,
            "latent": engine.latent,
            "frame": engine.autoencoder.decoder.frame,
        }
        for layer, block in enumerate(engine.model.layers):
            modules |= {f"transformer.blocks.{layer}{name}": module for name, module in _block_modules(block).items()}
        modules |= _autoencoder_modules(engine.autoencoder)
        sites = {name: Site(module, *_kept(module)) for name, module in modules.items()}
        if engine.model.config.generation is WAYPOINT_15:
            sites["transformer.rope_angles"] = Site(
                engine.model.rope_angles,
                layout=lambda rotation, _: rotation.stacked(),
                restore=lambda official, _: Rotation.unstacked(official),
            )
        for layer, cache in enumerate(engine.rings):
            window = engine.dilated_window if engine.model.config.is_global(layer) else engine.local_window
            ring_sites = self._ring_sites(cache, window)
            sites |= {f"kv_cache.layers.{layer}.{name}": site for name, site in ring_sites.items()}
        return sites

    def _ring_sites(self, cache: RingCache, window: nn.Module) -> dict[str, Site]:
        """The sites of one layer's ring. Which slots hold what, and so the official layout, follows from the clock."""
        return {
            "visible": Site(window, lambda visible, _: cache.official_visible(visible), cache.native_window),
            # Shown, without a way back: it follows from the clock.
            "written": Site(cache.written, layout=lambda tokens, _: tokens),
            "kv": Site(
                cache.kv,
                layout=lambda ring, _: cache.official_kv(ring, self.running.clock),
                restore=lambda official, ring: cache.native_kv(official, ring, self.running.clock),
            ),
        }

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written.

        Raises UserError where a prompt is given to a model that takes none, or none to a model that takes one.
        """
        takes_prompt = bool(self.engine.model.config.prompt_layers)
        if takes_prompt != (prompt is not None):
            raise UserError(
                "the prompt does not suit the checkpoint",
                found="no prompt" if prompt is None else "a prompt",
                expected="a prompt: the model attends to one" if takes_prompt else "none: the model attends to none",
                do="use a scenario that was recorded for this checkpoint",
            )
        self._session = Session(self.engine, sigmas)
        return _announced(self._session.read_prompt(prompt.embedding, prompt.pad_mask) if prompt else iter(()))

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give the next frame."""
        return _announced(self.running.append_image(image))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate the next frame."""
        return _announced(self.running.generate(noise, controls.button, controls.mouse, controls.scroll))

    def component(self, name: str) -> Callable[[int, Pass, Mapping[str, Tensor]], None] | None:
        """Begin anew with the transformer or the vae alone: see harness.run.component."""
        # A session of its own, of whose schedule nothing is used.
        self._session = Session(self.engine, torch.tensor([1.0, 0.0]))
        return {"transformer": self._transform, "vae": self._code}.get(name)

    @torch.no_grad()
    def _transform(self, unit: int, at: Pass, inputs: Mapping[str, Tensor]) -> None:
        """One call of the transformer; but for a denoise step, its keys and values are kept."""
        engine, session = self.engine, self.running
        if (prompt := inputs.get("input.prompt_emb")) is not None:
            session.prompt = engine.model.read_prompt(prompt)
        x = inputs["input.noise"] if at.phase == "denoise" and at.step == 0 else inputs["latent"]
        session.seek(int(inputs["input.timestamp"]))
        control = session.embed(inputs["input.button"], inputs["input.mouse"], inputs["input.scroll"])
        velocity = session.transform(x.view(1, 1, *x.shape[-3:]), inputs["input.sigma"], control)
        if at.phase == "denoise":
            engine.velocity(velocity)
        else:
            session.observe()

    @torch.no_grad()
    def _code(self, unit: int, at: Pass, inputs: Mapping[str, Tensor]) -> None:
        """One call of the encoder or the decoder."""
        if at.phase == "image":
            self.engine.autoencoder.encoder(inputs["input.image"])
        else:
            latent = inputs["latent"]
            self.running.decode(latent.view(1, 1, *latent.shape[-3:]))

    @property
    def running(self) -> Session:
        """The session in progress. Raises UserError before `start`."""
        if self._session is None:
            raise UserError(
                "no session is running", found="a frame before start", expected="start first", do="call start"
            )
        return self._session


def _announced(steps: Iterator[Step]) -> Iterator[Pass]:
    """The steps in the harness's terms, each still announced before it runs."""
    for step in steps:
        yield Pass(step.phase, step.number, step.sigma)


def _kept(module: nn.Module) -> tuple[Callable[..., Tensor], Callable[..., Tensor]] | tuple[()]:
    """Layout and restore of a module whose output is soon overwritten, which nobody who keeps it must notice."""
    return (lambda grown, _: grown.clone(), lambda official, _: official) if isinstance(module, Grow) else ()


def _fields(native: type, given: Any) -> dict[str, Any]:
    """The values that a native config takes over from the harness's config of the same thing."""
    return {field.name: getattr(given, field.name) for field in dataclasses.fields(native)}


def _block_modules(block: Block) -> dict[str, nn.Module]:
    """The modules of one block whose outputs are sites, by what follows the block's name."""
    attn = block.attn
    modules = {
        ".cond_head": block.cond_head,
        ".attn.q_proj": attn.q_proj,
        ".attn.k_proj": attn.k_proj,
        ".attn.v_proj": attn.v_proj,
        ".attn.q_rope": attn.q_rope,
        ".attn.k_rope": attn.k_rope,
        ".attn.gate_proj": attn.gate_proj,
        ".attn": attn.out_proj,
        ".prompt_cross_attn": block.prompt_cross_attn,
        ".ctrl_mlpfusion": block.ctrl_mlpfusion,
        ".mlp": block.mlp,
        "": block.out,
    }
    return {name: module for name, module in modules.items() if module is not None}


def _autoencoder_modules(autoencoder: Dcae | Taehv) -> dict[str, nn.Module]:
    """The modules of the encoder and the decoder whose outputs are sites."""
    modules: dict[str, nn.Module] = {}
    for name, half in (("encoder", autoencoder.encoder), ("decoder", autoencoder.decoder)):
        if isinstance(half, Ladder):
            modules |= {f"{name}.conv_in": half.conv_in, f"{name}.conv_out": half.conv_out}
            for part in ("blocks", "residuals"):
                modules |= {f"{name}.{part}.{i}": module for i, module in enumerate(getattr(half, part))}
        else:
            modules |= {f"{name}.{place}": layer for place, layer in half.stream.layers.items()}
    return modules
