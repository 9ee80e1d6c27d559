"""Drives diffusers' WanTransformer3DModel over memory and chunk together."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.hy_worldplay.config import CHUNK, MEMORY_TIMESTEP, TOKENS, WINDOW
from waypoint_parity.harness.families.hy_worldplay.scenario import padded, sigmas, told, whole_noise
from waypoint_parity.harness.families.hy_worldplay.sites import DECODE, DENOISE, MEMORY, PLAN, VIDEO, site_table
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.process_settings import preserved_settings
from waypoint_parity.harness.run.scenario import Scenario

TESTED_VERSION = "0.42.1"
_EMBEDDERS = ("time_embedder", "time_proj", "text_embedder")
# What the vendor's model has besides, for camera, action and cache.
_WITHOUT = ("action_embedder", "attended_camera")
# Values that no module returns.
_TOLD = (
    *("input.latents", "memory.latents", "memory.timestep", "memory.clean"),
    *("input.noise", "input.timestep", "proj_out", "velocity", "latent", "picture"),
)


class HyWorldPlayDiffusersAdapter:
    """A loop around diffusers' transformer and autoencoder; see harness.run.adapter.Adapter.

    Diffusers has neither camera nor action: it is the trunk of a checkpoint whose layers for both are 0, as before
    training. It has no cache of keys either: every step evaluates memory and chunk together, as the vendor's other
    mode does, and what it says of the memory is a part of such a call.
    """

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._numerics = numerics
        if numerics.compiled or numerics.dtype is not torch.float32:
            raise UserError(
                "the trunk of HY-WorldPlay is driven eagerly in fp32",
                found=f"{numerics.dtype_name}{', compiled' if numerics.compiled else ''}",
                expected="fp32",
                do="give --dtype fp32",
            )
        weights = checkpoint.weights("transformer")
        own = {key: tensor for key, tensor in weights.items() if "to_out_prope" in key or "action_embedder" in key}
        last = {key: tensor for key, tensor in own.items() if "linear_1" not in key}
        if moved := sorted(key for key, tensor in last.items() if bool(tensor.any())):
            raise UserError(
                f"{checkpoint.origin}: diffusers has no layers for its camera and action",
                found=f"{len(moved)} weights that are not 0, {moved[0]} among them",
                expected="a checkpoint in which they change nothing",
                do="name such a checkpoint, or compare another implementation",
            )
        geometry = checkpoint.geometry
        with preserved_settings(), warnings.catch_warnings(action="ignore"):
            self._diffusers = _import()
            config = json.loads(json.dumps(geometry.to_json()))
            self.transformer = self._diffusers.WanTransformer3DModel(**config["transformer"])
            self.vae = self._diffusers.AutoencoderKLWan(**config["vae"])
        self.transformer.load_state_dict({key: tensor for key, tensor in weights.items() if key not in own})
        self.vae.load_state_dict(checkpoint.weights("vae"))
        for model in (self.transformer, self.vae):
            model.to(numerics.device).eval().requires_grad_(False)
        self._rows = site_table(geometry.transformer.num_layers, geometry.up_blocks).rows
        self._probes = {name: nn.Identity() for name in _TOLD}
        # Which latents of a call belong to the pass.
        self._part = slice(None)
        self._channels = geometry.autoencoder

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the trunk."""
        return {
            "version": f"diffusers {self._diffusers.__version__}",
            "mode": "memory and chunk evaluated together",
            "attention": "as diffusers dispatches it",
            "autoencoder": "float32",
        }

    def sites(self) -> Mapping[str, Site]:
        """Those of the trunk, and of the autoencoder."""
        return {name: Site(probe) for name, probe in self._probes.items()} | dict(self._watched())

    def _watched(self) -> Iterator[tuple[str, Site]]:
        root, embedder = self.transformer, self.transformer.condition_embedder
        yield "input.prompt_emb", Site(embedder.text_embedder, lambda made, given: given[0])
        yield "patch_embedding", Site(root.patch_embedding, lambda made, given: made[:, :, self._part])
        yield "unscaled", Site(self.vae.post_quant_conv, lambda made, given: given[0])
        for row in self._rows:
            name, (place, _, last) = row.name, row.name.rpartition(".")
            if name.split(".")[0] in ("input", "memory") or last in _WITHOUT or name in self._probes:
                continue
            if name in _EMBEDDERS:
                yield name, Site(embedder.get_submodule(name), self._embedded)
            elif last == "attended":
                yield name, Site(root.get_submodule(f"{place}.to_out.0"), lambda made, given: self._tokens(given[0]))
            elif name.startswith("decoder."):
                yield name, Site(self.vae.get_submodule(name))
            elif name.startswith("blocks."):
                yield name, Site(root.get_submodule(name), lambda made, given: self._tokens(made))

    def _embedded(self, made: Tensor, given: object) -> Tensor:
        """A timestep's values, of each latent; the text's as they are."""
        return self._by_latent(made.flatten(0, -2)) if made.shape[-2] % TOKENS == 0 else made

    def _by_latent(self, values: Tensor) -> Tensor:
        """Of values by token those by latent, in the pass."""
        return values[::TOKENS][self._part]

    def _tokens(self, values: Tensor) -> Tensor:
        """Of tokens [1,T,D] those in the pass; the text's as they are."""
        if values.shape[1] % TOKENS:
            return values
        tokens: Tensor = values.unflatten(1, (-1, TOKENS))[:, self._part]
        return tokens.flatten(1, 2)

    @torch.no_grad()
    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session, chunk by chunk."""
        count, levels = scenario.units * CHUNK, sigmas(scenario)
        if count > WINDOW + 2 * CHUNK:
            raise UserError(
                f"{scenario.name}: too long for a loop without a choice of memory",
                found=f"{scenario.units} chunks",
                expected=f"at most {WINDOW // CHUNK + 2}",
                do="name a shorter scenario",
            )
        latents = whole_noise(scenario).to(self._numerics.device)
        prompt = padded(scenario["prompt_emb"]).to(self._numerics.device)
        self.vae.clear_cache()
        for unit in range(scenario.units):
            held = unit * CHUNK
            yield unit, Pass(PLAN)
            self._show("input.latents", told(range(held, held + CHUNK), count))
            chunk = latents[:, :, held : held + CHUNK]
            for step, timestep in enumerate(scenario["timesteps"].tolist()):
                given = torch.cat([latents[:, :, :held], chunk], 2)
                each = given.new_tensor([MEMORY_TIMESTEP] * held + [timestep] * CHUNK)
                if unit and step == 0:
                    yield unit, Pass(MEMORY)
                    self._show("memory.latents", told(range(held), count))
                    every = each.new_full((count,), -1.0)
                    every[:held] = each[:held]
                    self._show("memory.timestep", every)
                    self._show("memory.clean", given[:, :, :held])
                    self._part = slice(0, held)
                    self._velocity(given, each, prompt)
                yield unit, Pass(DENOISE, step, levels[step])
                self._part = slice(held, None)
                if step == 0:
                    chunk = self._show("input.noise", chunk)
                    given = torch.cat([latents[:, :, :held], chunk], 2)
                each[held:] = self._show("input.timestep", each[held:])
                with self._shown_last():
                    velocity = self._show("velocity", self._velocity(given, each, prompt)[:, :, held:])
                chunk = self._show("latent", chunk + (levels[step + 1] - levels[step]) * velocity)
            latents = torch.cat([latents[:, :, :held], chunk, latents[:, :, held + CHUNK :]], 2)
            yield from ((unit, at) for at in self._decode(unit, chunk))

    def _velocity(self, given: Tensor, timesteps: Tensor, prompt: Tensor) -> Tensor:
        made: Tensor = self.transformer(
            hidden_states=given,
            timestep=timesteps.repeat_interleave(TOKENS)[None],
            encoder_hidden_states=prompt,
            return_dict=False,
        )[0]
        return made

    @contextmanager
    def _shown_last(self) -> Iterator[None]:
        """Show what the last layer makes: of the memory nobody reads it."""
        handle = self.transformer.proj_out.register_forward_hook(lambda module, given, made: self._show_last(made))
        yield
        handle.remove()

    def _show_last(self, made: Tensor) -> None:
        self._show("proj_out", self._tokens(made))

    def _decode(self, unit: int, chunk: Tensor) -> Iterator[Pass]:
        mean, std = (chunk.new_tensor(self._channels[name]).view(1, -1, 1, 1, 1) for name in _SCALE)
        made = []
        for number in range(CHUNK):
            yield Pass(DECODE, number)
            if number == 0:
                # What the first layer makes of a latent is of that latent alone.
                values = self.vae.post_quant_conv(chunk * std + mean)
            self.vae._conv_idx = [0]
            made.append(
                self.vae.decoder(
                    values[:, :, number : number + 1],
                    feat_cache=self.vae._feat_map,
                    feat_idx=self.vae._conv_idx,
                    first_chunk=unit == number == 0,
                )
            )
        yield Pass(VIDEO)
        video = self._unpatchify(torch.cat(made, 2)).clamp(-1, 1)
        levels = ((video[0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        self._show("picture", levels.permute(1, 2, 3, 0).contiguous())

    def _unpatchify(self, values: Tensor) -> Tensor:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        size = self._channels.get("patch_size")
        made: Tensor = values if size is None else unpatchify(values, patch_size=size)
        return made

    def _show(self, site: str, value: Tensor) -> Tensor:
        shown: Tensor = self._probes[site](value)
        return shown


_SCALE = ("latents_mean", "latents_std")


def _import() -> Any:
    try:
        import diffusers

        for name in ("WanTransformer3DModel", "AutoencoderKLWan"):
            getattr(diffusers, name)
    except (ImportError, AttributeError, RuntimeError) as error:
        raise UserError(
            "diffusers with Wan is not installed",
            found=str(error).partition("\n")[0],
            expected=f"diffusers {TESTED_VERSION}, the tested version",
            do=f'pip install "diffusers=={TESTED_VERSION}" accelerate transformers',
        ) from error
    return diffusers
