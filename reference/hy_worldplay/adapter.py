"""The driver of the vendor's WAN-5B pipeline: builds it, makes chunks with it, says where to watch."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.hy_worldplay.config import (
    CHUNK,
    TIMESTEPS,
    TOKENS,
    TRAIN_STEPS,
    WINDOW,
)
from waypoint_parity.harness.families.hy_worldplay.scenario import by_latent, padded, told, whole_noise
from waypoint_parity.harness.families.hy_worldplay.sites import DECODE, DENOISE, MEMORY, PLAN, VIDEO, site_table
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.paused_call import PausedCall
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sources import UNTESTED
from waypoint_parity.harness.run.worker import apart
from waypoint_parity.reference.hy_worldplay.package import Package, imported

UNCACHED = "uncached"
_EMBEDDERS = ("time_embedder", "action_embedder", "time_proj", "text_embedder")
# Sites that no module returns, or that are told where they are consumed.
_BETWEEN = ("velocity", "latent", "unscaled", "picture")
_VIEWS = {"viewmats": "input.viewmats", "Ks": "input.intrinsics", "action": "input.action"}


class HyWorldPlayAdapter:
    """Drives `WanPipeline.__call__` chunk by chunk, as it stands; see harness.run.adapter.Adapter.

    In the place of what it would load, draw or call, it is given: models that hold the checkpoint's weights, a recorded
    embedding, noise, timesteps and points. `describe` names all of it. Every site is a probe: the call runs in a thread
    of its own, and what is shown is shown outside of it.

    The vendor's code has two modes. Here the memory's keys are cached before a chunk's steps, as it is released; with
    `uncached` every step evaluates memory and chunk together. That mode needs a cache of nothing put in the place of
    None, on which it ends with an error otherwise.
    """

    OPTIONS = (UNCACHED, UNTESTED)

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        self._numerics, self._uncached = numerics, UNCACHED in numerics.options
        if numerics.dtype is not torch.float32 or numerics.compiled:
            raise UserError(
                "HY-WorldPlay is driven eagerly in fp32",
                found=f"{numerics.dtype_name}{', compiled' if numerics.compiled else ''}",
                expected="fp32: its bf16 is that of a GPU's kernels",
                do="give --dtype fp32",
            )
        with imported(untested=UNTESTED in numerics.options) as package, warnings.catch_warnings(action="ignore"):
            self._version = package.version
            self._pipeline = self._build(package, checkpoint)
        # From here on the module is that of this adapter alone: nobody else imports it.
        self._torch = _Torch()
        self._module = vars(package.pipeline)
        self._module.update(
            torch=self._torch, print=lambda *_: None, generate_points_in_sphere=lambda *_: self._points()
        )
        self.transformer: nn.Module = self._pipeline.transformer
        geometry = checkpoint.geometry
        rows = site_table(geometry.transformer.num_layers, geometry.up_blocks).rows
        self._names = [row.name for row in rows]
        self._probes = {name: nn.Identity() for name in self._names}
        self._running: PausedCall | None = None
        # What a port may do otherwise, for faults.
        self.chunk = CHUNK
        self.noise: Callable[[Scenario], Tensor] = whole_noise
        self.select: Callable[[list[int], int], list[int]] = lambda own, unit: own
        self.pictures: Callable[[Tensor], Tensor] = as_pictures
        self.quiet = self._together = False

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the vendor's code: its mode and numerics among it."""
        return {
            "version": self._version,
            "mode": "memory and chunk evaluated together" if self._uncached else "memory keys cached",
            "attention": "scaled_dot_product_attention in the place of sageattn",
            "given": "weights, embedding, noise, timesteps and points; UMT5 is not loaded",
            "autoencoder": "float32",
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site of the family."""
        return {name: Site(probe) for name, probe in self._probes.items()}

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session, chunk by chunk."""
        if self._uncached and scenario.units * CHUNK > WINDOW + 2 * CHUNK:
            raise UserError(
                f"{scenario.name}: too long for hy-worldplay+{UNCACHED}",
                found=f"{scenario.units} chunks",
                expected=f"at most {WINDOW // CHUNK + 2}: this mode of the vendor's code has no choice of memory",
                do="name a shorter scenario, or leave the option out",
            )
        self._scenario, self._latents = scenario, scenario.units * CHUNK
        self._torch.timesteps = scenario["timesteps"]
        # A session before may have been left in the middle.
        self.quiet = self._together = False
        with ExitStack() as attached:
            for handle in self._attach():
                attached.callback(handle.remove)
            for unit in range(scenario.units):
                self._unit, self._step, self._decoded = unit, 0, 0
                self._memory: list[int] = []
                self._begins = True
                self._running = PausedCall(partial(self._make, unit), warnings.catch_warnings)
                yield from ((unit, at) for at in self._running.passes())

    def _make(self, unit: int) -> None:
        """A chunk: one call of the pipeline."""
        warnings.simplefilter("ignore")
        self._announce(Pass(PLAN))
        start = min(unit * self.chunk, self._latents)
        own = range(start, min(start + self.chunk, self._latents))
        latents = self._told(self.show("input.latents", told(own, self._latents)))
        if not latents:
            return
        size, scenario, pipeline = len(latents), self._scenario, self._pipeline
        self._module["CHUNK_SIZE"] = size
        given: dict[str, Any] = {}
        if unit == 0:
            given = {
                "latents": self._placed(self.noise(scenario)),
                "prompt_embeds": self._placed(padded(scenario["prompt_emb"])),
                "height": 16 * scenario["noise"].shape[-2],
                "width": 16 * scenario["noise"].shape[-1],
                "num_frames": 4 * (self._latents - 1) + 1,
            }
        else:
            pipeline.ctx.update(chunk_size=size, first_chunk_size=size)
        video, _ = pipeline(
            **given,
            guidance_scale=1.0,
            few_step=True,
            first_chunk_size=size,
            return_dict=False,
            use_memory=True,
            context_window_length=WINDOW,
            chunk_i=unit,
            output_type="pt",
            callback_on_step_end=self._after_step,
            callback_on_step_end_tensor_inputs=["latents_curr"],
            **{
                name: self._placed(by_latent(scenario, site.removeprefix("input."))[latents][None])
                for name, site in _VIEWS.items()
            },
        )
        self._announce(Pass(VIDEO))
        self.show("picture", self.pictures(video))

    def show(self, site: str, value: Any) -> Any:
        """Show `value` at the probe of `site`; go on with what this returns."""
        if self.quiet:
            return value
        assert self._running is not None, "nothing is shown outside of a session"
        return self._running.outside(lambda: self._probes[site](value))

    def _announce(self, at: Pass) -> None:
        if not self.quiet:
            assert self._running is not None, "no pass is announced outside of a session"
            self._running.pause(at)

    def _attach(self) -> Iterator[RemovableHandle]:
        """Hook every module that tells a pass, or shows a site."""
        root, vae = self.transformer, self._pipeline.vae
        yield root.register_forward_pre_hook(self._before, with_kwargs=True)
        yield root.register_forward_hook(self._after, with_kwargs=True)
        embedder = root.get_submodule("condition_embedder.text_embedder")
        yield embedder.register_forward_pre_hook(self._shown_first("input.prompt_emb"))
        yield vae.post_quant_conv.register_forward_pre_hook(self._before_decoding)
        yield vae.decoder.register_forward_pre_hook(self._before_latent)
        for name in self._names:
            if name.startswith(("input.", "memory.")) or name in _BETWEEN:
                continue
            place, _, last = name.rpartition(".")
            if last.startswith("attended"):
                out = {"attended": "to_out.0", "attended_camera": "to_out_prope.0"}[last]
                yield root.get_submodule(f"{place}.{out}").register_forward_pre_hook(self._shown_first(name))
            elif name.startswith("decoder."):
                yield vae.get_submodule(name).register_forward_hook(self._shown(name))
            elif last == "attn1":
                attention = root.get_submodule(name)
                yield attention.register_forward_pre_hook(self._before_attention, with_kwargs=True)
                yield attention.register_forward_hook(self._after_attention(name))
            else:
                module = f"condition_embedder.{name}" if name in _EMBEDDERS else name
                yield root.get_submodule(module).register_forward_hook(self._shown(name))

    # The transformer.

    def _before(self, module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """A call of the transformer begins: over the memory, or over a chunk."""
        if self.quiet:
            return None
        if given["is_cache"]:
            return args, self._remember(given, self._held(given["hidden_states"]))
        own = given["hidden_states"].shape[2]
        making = self._making
        self._crop = slice(own - making, None) if own > making else None
        self._extent = own
        if self._uncached and self._crop is not None and self._step == 0:
            self._remember_together(module, given, own - making)
        if not self._uncached:
            held = len(self._memory)
            given = {**given, "current_start": held * TOKENS, "current_end": (held + making) * TOKENS}
        if self._uncached or not self._memory:
            given = {**given, "kv_cache": self._nothing()}
        self._announce(Pass(DENOISE, self._step, float(self._scenario["timesteps"][self._step]) / TRAIN_STEPS))
        if self._step == 0:
            self._show_part("input.noise", given["hidden_states"], 2, in_place=True)
        given = {**given, "timestep": self._show_part("input.timestep", given["timestep"], 0)}
        return args, self._with_views(given)

    @property
    def _making(self) -> int:
        """How many latents the chunk in work has."""
        size: int = self._pipeline.ctx["chunk_size"]
        return size

    def _remember(self, given: dict[str, Any], own: list[int]) -> dict[str, Any]:
        """The pass over the memory, of what it is told to hold."""
        latents = self.select(own, self._unit)
        self._announce(Pass(MEMORY))
        latents = self._told(self.show("memory.latents", told(latents, self._latents)))
        self._memory, self._crop = latents, None
        if not latents:
            # The vendor's code has no way around the pass: it runs, nobody looks on, and nothing reads what it caches.
            self.quiet = True
            return given
        if latents != own:
            context = self._pipeline.ctx
            level = given["timestep"][:1].expand(len(latents))
            given = {**given, "hidden_states": context["latents"][:, :, latents], "timestep": level}
            given |= {name: context[name][:, latents] for name in _VIEWS}
            given |= {"current_start": 0, "current_end": len(latents) * TOKENS}
        self._extent = len(latents)
        return self._with_views(self._as_remembered(given, latents))

    def _remember_together(self, module: nn.Module, given: dict[str, Any], count: int) -> None:
        """Show the memory's part of a call over memory and chunk: one more call, of which the rest is not looked at."""
        latents = list(range(count))
        self._announce(Pass(MEMORY))
        self.show("memory.latents", told(latents, self._latents))
        chunk, self._crop = self._crop, slice(0, count)
        shown = self._as_remembered({**given, "kv_cache": self._nothing()}, latents)
        self._together = True
        with torch.no_grad():
            module.forward(**self._with_views(shown))
        self._together, self._crop = False, chunk

    def _as_remembered(self, given: dict[str, Any], latents: list[int]) -> dict[str, Any]:
        """What the memory's pass is given, with its timesteps and latents shown as consumed."""
        crop = self._crop or slice(None)
        levels = given["timestep"].clone()
        every = levels.new_full((self._latents,), -1.0)
        every[latents] = levels[crop]
        levels[crop] = self.show("memory.timestep", every)[latents]
        return {
            **given,
            "timestep": levels,
            "hidden_states": self._show_part("memory.clean", given["hidden_states"], 2),
        }

    def _with_views(self, given: dict[str, Any]) -> dict[str, Any]:
        shown = {
            name: self._show_part(site, given[name][0], 0)[None] if given[name] is not None else None
            for name, site in _VIEWS.items()
        }
        return {**given, **shown}

    def _after(self, module: nn.Module, args: Any, given: dict[str, Any], output: Any) -> Any:
        if given["is_cache"]:
            self.quiet = False
            return None
        return (self._show_part("velocity", output[0], 2), *output[1:])

    def _after_step(self, pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        latents: Tensor = given["latents_curr"]
        self._extent = latents.shape[2]
        self._crop = slice(self._extent - self._making, None)
        self._show_part("latent", latents, 2, in_place=True)
        self._step += 1
        return given

    def _before_attention(self, module: nn.Module, args: Any, given: dict[str, Any]) -> Any:
        """Where memory and chunk are evaluated together, have the attention say its keys; it computes the same."""
        return (args, {**given, "is_cache": True}) if self._together else None

    def _after_attention(self, name: str) -> Callable[[nn.Module, Any, Any], Any]:
        layer = name.split(".")[1]

        def show(module: nn.Module, args: Any, output: tuple[Tensor, dict[str, Tensor]]) -> Any:
            hidden, made = output
            if made:
                made = {
                    key: self._show_part(f"memory.{layer}.{key}", value, -2, tokens=True) for key, value in made.items()
                }
            return self._show_part(name, hidden, 1, tokens=True), made

        return show

    def _shown(self, site: str) -> Callable[[nn.Module, Any, Any], Any]:
        """A hook that shows what a module returns."""
        return lambda module, args, output: self._show_some(site, output)

    def _shown_first(self, site: str) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        """A hook that shows the first argument of a module."""
        return lambda module, args: (self._show_some(site, args[0]), *args[1:])

    def _show_some(self, site: str, output: Any) -> Any:
        """Show what a module returns, or the part of it that belongs to the pass. A block returns keys besides."""
        if self._together and site == "proj_out":
            # The memory's pass ends before it, and only the rest of this call reads it.
            return output
        if isinstance(output, tuple):
            return (self._show_some(site, output[0]), *output[1:])
        if site == "patch_embedding":
            return self._show_part(site, output, 2)
        if output.dim() == 3 and output.shape[1] == TOKENS * self._extent:
            return self._show_part(site, output, 1, tokens=True)
        return self._show_part(site, output, 0) if site in _EMBEDDERS[:3] else self.show(site, output)

    def _show_part(
        self, site: str, value: Tensor, axis: int, *, tokens: bool = False, in_place: bool = False
    ) -> Tensor:
        """Show the part that belongs to the pass, latents or their tokens along an axis; the whole with what is put."""
        crop = self._crop
        if crop is None:
            shown: Tensor = self.show(site, value)
            if in_place and shown is not value:
                value.copy_(shown)
                return value
            return shown
        begin, end, _ = crop.indices(self._extent)
        factor = TOKENS if tokens else 1
        part = value.narrow(axis, begin * factor, (end - begin) * factor)
        if (shown := self.show(site, part)) is part:
            return value
        whole = value if in_place else value.clone()
        whole.narrow(axis, begin * factor, (end - begin) * factor).copy_(shown)
        return whole

    def _held(self, clean: Tensor) -> list[int]:
        """Which latents of the session the memory's pass is given, told by their values, bit for bit."""
        with apart(), torch._C.DisableTorchFunction():
            done = self._pipeline.ctx["latents"][0, :, : self._unit * self._making].transpose(0, 1)
            bits = [each.contiguous().view(torch.int32) for each in (done, clean[0].transpose(0, 1))]
            held = [next((n for n, one in enumerate(bits[0]) if torch.equal(one, each)), None) for each in bits[1]]
        assert None not in held, "the memory holds what no chunk ended with"
        return [number for number in held if number is not None]

    def _told(self, shown: Tensor) -> list[int]:
        """The latents that a site names."""
        with apart():
            return [number for number, named in enumerate(shown.tolist()) if named]

    def _nothing(self) -> list[dict[str, None]]:
        return [{"k": None, "v": None} for _ in range(len(self._pipeline.transformer.blocks))]

    # The autoencoder.

    def _before_decoding(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self._announce(Pass(DECODE))
        return (self.show("unscaled", args[0]), *args[1:])

    def _before_latent(self, module: nn.Module, args: Any) -> None:
        if self._decoded:
            self._announce(Pass(DECODE, self._decoded))
        self._decoded += 1

    # Building.

    def _points(self) -> Tensor:
        points = self._scenario.get("points")
        return torch.zeros(1, 3) if points is None else self._placed(points)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._numerics.device)

    def _build(self, package: Package, checkpoint: Checkpoint) -> Any:
        from diffusers import FlowMatchEulerDiscreteScheduler

        config = checkpoint.geometry.to_json()
        model = package.model.WanTransformer3DModel(**config["transformer"])
        model.add_discrete_action_parameters()
        vae = package.helper.MyVAE(**config["vae"])
        for component, module in (("transformer", model), ("vae", vae)):
            _load(module, checkpoint.weights(component), component)
            module.to(self._numerics.device).eval().requires_grad_(False)
        pipeline = package.pipeline.WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=vae,
            scheduler=FlowMatchEulerDiscreteScheduler(),
            transformer=model,
        )
        pipeline.set_progress_bar_config(disable=True)
        # So that its callback may see what a step ends with.
        pipeline._callback_tensor_inputs = [*pipeline._callback_tensor_inputs, "latents_curr"]
        if self._uncached:
            begin = pipeline.init_kv_cache

            def uncached() -> None:
                begin()
                pipeline.use_kv_cache = False

            pipeline.init_kv_cache = uncached
        return pipeline


class _Torch:
    """In the place of torch in the pipeline's module: the recorded timesteps, and nothing of a GPU's clock."""

    timesteps: Tensor
    cuda = SimpleNamespace(
        synchronize=lambda: None, nvtx=SimpleNamespace(range_push=lambda name: None, range_pop=lambda: None)
    )

    def tensor(self, values: Any, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(values, Sequence) and list(values) == [*TIMESTEPS, 0.0]:
            values = [*self.timesteps.tolist(), 0.0]
        return torch.tensor(values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def as_pictures(video: Tensor) -> Tensor:
    """The pictures [n,H,W,3] uint8 that a video [1,n,3,H,W] from 0 to 1 is written as."""
    return (video[0] * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _load(module: nn.Module, weights: Mapping[str, Tensor], component: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{component}: the weights do not fit the config",
            found=str(error).strip().splitlines()[-1].strip(),
            expected="every weight of the model, once",
            do="fetch the checkpoint again",
        ) from error
