"""Scenarios: the recorded inputs of a session, as one safetensors file."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from waypoint_parity.harness.checkpoint.digest import values_digest
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.run.adapter import Controls, Prompt

SCHEMA = "waypoint-parity/scenario/1"
IMAGE_SHAPE = (360, 640, 3)


@dataclass(frozen=True)
class Scenario:
    """The inputs of a session of F generated frames, exactly as an implementation is to consume them.

    `noise` [F,1,1,C,h*ph,w*pw], `button` [F,n_buttons], `mouse` [F,2], `scroll` [F,1], all fp32; `prompt_emb` [1,P,E]
    fp32 and `prompt_pad_mask` [1,P] bool (true = padding), both or neither; `image` [360,640,3] uint8 seeds the session
    as frame clock 0; `sigmas` [S+1] fp32, else the checkpoint's schedule. `world_seed` is that of the rendered session
    (fixtures/world) whose frames are the true ones, where there are any.
    """

    name: str
    seed: int
    noise_policy: str
    noise: Tensor
    button: Tensor
    mouse: Tensor
    scroll: Tensor
    prompt_emb: Tensor | None = None
    prompt_pad_mask: Tensor | None = None
    image: Tensor | None = None
    sigmas: Tensor | None = None
    world_seed: int | None = None

    @property
    def frames(self) -> int:
        """F, the number of generated frames."""
        return self.noise.shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that is present, by its name in the file."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def prompt(self) -> Prompt | None:
        """The prompt, where the session has one."""
        if self.prompt_emb is None or self.prompt_pad_mask is None:
            return None
        return Prompt(self.prompt_emb, self.prompt_pad_mask)

    def controls(self, frame: int) -> Controls:
        """The controls of generated frame `frame`."""
        return Controls(self.button[frame], self.mouse[frame], self.scroll[frame])

    def schedule(self, config: TransformerConfig) -> Tensor:
        """Sigmas [S+1] fp32 of this session: the scenario's own, else the checkpoint's."""
        return torch.tensor(config.scheduler_sigmas) if self.sigmas is None else self.sigmas

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and values of the tensors; the scenario's name does not count."""
        return values_digest("", sorted(self.tensors.items()))

    def check(self, config: TransformerConfig) -> None:
        """Raise UserError, naming every tensor that does not fit, where the scenario is not one for `config`."""
        # A session without frames would agree with every other.
        frames = max(1, self.frames)
        expected: dict[str, tuple[int, ...]] = {
            "noise": (frames, 1, 1, *config.latent_shape),
            "button": (frames, config.n_buttons),
            "mouse": (frames, 2),
            "scroll": (frames, 1),
        }
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if self.image is not None:
            expected["image"] = IMAGE_SHAPE
        if config.prompt_conditioning and self.prompt_pad_mask is not None:
            tokens = self.prompt_pad_mask.shape[-1]
            expected |= {"prompt_emb": (1, tokens, config.prompt_embedding_dim or 0), "prompt_pad_mask": (1, tokens)}
        wrong = [f"{name} {list(found[name])}" for name, shape in expected.items() if found[name] != shape]
        if wrong:
            raise UserError(
                f"scenario {self.name}: does not fit the checkpoint's geometry",
                found=listed(wrong),
                expected=listed([f"{name} {list(shape)}" for name, shape in expected.items() if found[name] != shape]),
                do="use a scenario made for this checkpoint: waypoint-parity scenario --help",
            )
        if (config.prompt_conditioning is not None) != (self.prompt is not None):
            raise UserError(
                f"scenario {self.name}: prompt and checkpoint do not belong together",
                found="a prompt" if self.prompt else "no prompt",
                expected="a prompt" if config.prompt_conditioning else "no prompt",
                do="use a scenario made for this checkpoint: waypoint-parity scenario --help",
            )
        self._check_sigmas(config)

    def _check_sigmas(self, config: TransformerConfig) -> None:
        sigmas = self.schedule(config)
        if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas.diff() < 0).all()) or float(sigmas[-1]) != 0.0:
            raise UserError(
                f"scenario {self.name}: not a sigma schedule",
                found=str(sigmas.tolist()),
                expected="at least two values, strictly falling, the last one 0",
                do="correct the schedule",
            )


def read_scenario(path: Path) -> Scenario:
    """Read a scenario file. Raises UserError for a broken file, an unknown schema, and missing or unknown tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a handle is no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as a scenario",
            found=str(error) or type(error).__name__,
            expected="a whole safetensors file",
            do="make or copy the file again; it was probably cut short",
        ) from error
    if metadata.get("schema", SCHEMA) != SCHEMA:
        raise UserError(
            f"{path}: unknown scenario schema",
            found=metadata["schema"],
            expected=SCHEMA,
            do="make the scenario again, or use a release of waypoint-parity that knows its schema",
        )
    seed, world_seed = metadata.get("seed", "0"), metadata.get("world_seed")
    _check_content(path, {"seed": seed, "world_seed": world_seed or "0"}, tensors)
    return Scenario(
        name=metadata.get("name", path.stem),
        seed=int(seed),
        noise_policy=metadata.get("noise_policy", "unknown"),
        world_seed=None if world_seed is None else int(world_seed),
        **tensors,
    )


# Every tensor that a scenario may hold, with its dtype; the first four are required.
_DTYPES = {
    "noise": torch.float32,
    "button": torch.float32,
    "mouse": torch.float32,
    "scroll": torch.float32,
    "prompt_emb": torch.float32,
    "prompt_pad_mask": torch.bool,
    "image": torch.uint8,
    "sigmas": torch.float32,
}
_REQUIRED = tuple(_DTYPES)[:4]


def _check_content(path: Path, seeds: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """The seeds, names and dtypes that a scenario file holds; shapes are a matter between it and a checkpoint."""
    problems = [f"lacks {name}" for name in _REQUIRED if name not in tensors]
    problems += [
        f"{name} {seed} is no whole number" for name, seed in seeds.items() if not seed.removeprefix("-").isdecimal()
    ]
    problems += [f"{name} is a single number" for name, tensor in tensors.items() if tensor.ndim == 0]
    problems += [f"unknown {name}" for name in sorted(tensors.keys() - _DTYPES.keys())]
    problems += [
        f"{name} is {tensor.dtype}, not {_DTYPES[name]}"
        for name, tensor in tensors.items()
        if name in _DTYPES and tensor.dtype != _DTYPES[name]
    ]
    if ("prompt_emb" in tensors) != ("prompt_pad_mask" in tensors):
        problems.append("prompt_emb and prompt_pad_mask come together or not at all")
    problems += [
        f"{name} holds values that are not finite"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if problems:
        raise UserError(
            f"{path}: is not a scenario",
            found=listed(problems),
            expected=f"{listed(list(_REQUIRED))}, and perhaps {listed(list(_DTYPES)[4:])}",
            do="make the scenario again: waypoint-parity scenario --help",
        )


def write_scenario(scenario: Scenario, path: Path) -> None:
    """Write `scenario` as a whole. Raises UserError where that is impossible."""
    metadata = {
        "schema": SCHEMA,
        "name": scenario.name,
        "seed": str(scenario.seed),
        "noise_policy": scenario.noise_policy,
    }
    if scenario.world_seed is not None:
        metadata["world_seed"] = str(scenario.world_seed)
    with replacing(path) as partial:
        save_file(scenario.tensors, partial, metadata)
