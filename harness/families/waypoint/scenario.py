"""Scenarios of Waypoint: the fields of a session, whether they fit a checkpoint, and the passes that they make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.families.waypoint.config import TaehvConfig, TransformerConfig, WaypointGeometry
from waypoint_parity.harness.record.statistics import summarise
from waypoint_parity.harness.run.adapter import Pass
from waypoint_parity.harness.run.scenario import WHOLE, Scenario, is_whole

# Of Waypoint 1. One of Waypoint 1.5 is four pictures, of the size of those that it makes.
IMAGE_SHAPE = (360, 640, 3)
PICTURES = 4
_HELD = {"noise": "frames", "prompt_emb": "tokens"}


@dataclass(frozen=True)
class Prompt:
    """The prompt of a session: `embedding` [1,P,E] fp32, `pad_mask` [1,P] bool (true = padding)."""

    embedding: Tensor
    pad_mask: Tensor


@dataclass(frozen=True)
class Controls:
    """The controls of one frame: `button` [n_buttons], `mouse` [2], `scroll` [1], all fp32."""

    button: Tensor
    mouse: Tensor
    scroll: Tensor


@dataclass(frozen=True)
class Inputs:
    """What a scenario gives, by the names of the model.

    `noise` [F,1,1,C,h*ph,w*pw], `button` [F,n_buttons], `mouse` [F,2], `scroll` [F,1], all fp32; `prompt_emb` [1,P,E]
    fp32 and `prompt_pad_mask` [1,P] bool (true = padding), both or neither; `image` uint8, [360,640,3] or for Waypoint
    1.5 [4,H,W,3], seeds the session as frame clock 0; `sigmas` [S+1] fp32, else the checkpoint's schedule.
    """

    scenario: Scenario

    @property
    def noise(self) -> Tensor:
        """Start noise of every frame."""
        return self.scenario["noise"]

    @property
    def image(self) -> Tensor | None:
        """The seed image, where the session has one."""
        return self.scenario.get("image")

    @property
    def sigmas(self) -> Tensor:
        """The schedule of a session that was prepared."""
        return self.scenario["sigmas"]

    @cached_property
    def prompt(self) -> Prompt | None:
        """The prompt, where the session has one."""
        embedding, pad_mask = self.scenario.get("prompt_emb"), self.scenario.get("prompt_pad_mask")
        return None if embedding is None or pad_mask is None else Prompt(embedding, pad_mask)

    def controls(self, frame: int) -> Controls:
        """The controls of generated frame `frame`."""
        return Controls(*(self.scenario[name][frame] for name in ("button", "mouse", "scroll")))


def schedule(scenario: Scenario, config: TransformerConfig) -> Tensor:
    """Sigmas [S+1] fp32 of a session: the scenario's own, else the checkpoint's."""
    own = scenario.get("sigmas")
    # A last -0.0 becomes the 0.0 that implementations end at.
    return torch.tensor(config.scheduler_sigmas) if own is None else own + 0.0


def image_shape(geometry: WaypointGeometry) -> tuple[int, ...]:
    """The shape of a seed image."""
    autoencoder = geometry.autoencoder
    return (PICTURES, *autoencoder.picture_size, 3) if isinstance(autoencoder, TaehvConfig) else IMAGE_SHAPE


def prepared(scenario: Scenario, geometry: WaypointGeometry) -> Scenario:
    """With the checkpoint's schedule, where it has none of its own; a still picture as often as the model takes it."""
    image, shape = scenario.get("image"), image_shape(geometry)
    if image is not None and len(shape) > image.ndim:
        scenario = scenario.with_tensors(image=image.expand(shape).contiguous())
    return scenario.with_tensors(sigmas=schedule(scenario, geometry.transformer))


def session_passes(
    steps: int, frames: int, *, prompt: bool, image: bool, decoded: bool = False
) -> Iterator[tuple[int, Pass]]:
    """(frame, pass) of every pass of a session, in execution order; whether the latent of its image is `decoded`."""
    if prompt:
        yield 0, Pass("prompt")
    if image:
        yield 0, Pass("image")
    if decoded:
        yield 0, Pass("decode")
    for frame in range(frames):
        for step in range(steps):
            yield frame, Pass("denoise", step)
        yield frame, Pass("cache")
        yield frame, Pass("decode", int(decoded and frame == 0))


def planned(scenario: Scenario, config: TransformerConfig) -> Iterator[tuple[int, Pass]]:
    """(frame, pass) of every pass of the scenario's session. Waypoint 1.5 decodes the seed latent: it remembers it."""
    steps = len(schedule(scenario, config)) - 1
    prompt, image = scenario.get("prompt_emb") is not None, scenario.get("image") is not None
    decoded = image and config.is_waypoint_15
    return session_passes(steps, scenario.units, prompt=prompt, image=image, decoded=decoded)


def alone(scenario: Scenario, geometry: WaypointGeometry, frames: Sequence[int]) -> tuple[Scenario, Sequence[int]]:
    """A session with some frames, each one denoise step long, and the frames that it has.

    A decoder that remembers needs every frame before them, and the image.
    """
    short = {"sigmas": torch.tensor((1.0, 0.0))}
    if geometry.transformer.is_waypoint_15:
        every = range(max(frames) + 1)
        return of_frames(scenario, every).with_tensors(**short), every
    return of_frames(scenario, frames).with_tensors(**short, image=None), frames


def of_frames(scenario: Scenario, frames: Sequence[int]) -> Scenario:
    """The inputs of some frames alone."""
    given = {name: scenario[name][list(frames)] for name in ("noise", "button", "mouse", "scroll")}
    return replace(scenario.with_tensors(**given), units=len(frames))


def problems(tensors: Mapping[str, Tensor], labels: Mapping[str, str]) -> list[str]:
    """What is wrong with the fields of a file, beyond names and dtypes."""
    found = []
    if ("prompt_emb" in tensors) != ("prompt_pad_mask" in tensors):
        found.append("prompt_emb and prompt_pad_mask come together or not at all")
    world_seed = labels.get("world_seed", "0")
    if not is_whole(world_seed):
        found.append(f"world_seed {world_seed[:24]} is no {WHOLE}")
    # A session without frames would agree with every other.
    found += [f"{name} has no {what}" for name, what in _HELD.items() if name in tensors and not tensors[name].numel()]
    button = tensors.get("button")
    if button is not None and button.is_floating_point() and bool((button.float().clamp(0, 1) != button.float()).any()):
        found.append("button holds values that are not from 0 (up) to 1 (down)")
    return found


def check(scenario: Scenario, geometry: WaypointGeometry) -> None:
    """Raise UserError, naming every tensor that does not fit, where the scenario is not one for the checkpoint."""
    config = geometry.transformer
    # A session without frames would agree with every other.
    frames = max(1, scenario.units)
    expected: dict[str, tuple[int, ...]] = {
        "noise": (frames, 1, 1, *config.latent_shape),
        "button": (frames, config.n_buttons),
        "mouse": (frames, 2),
        "scroll": (frames, 1),
    }
    found = {name: tuple(tensor.shape) for name, tensor in scenario.tensors.items()}
    if "image" in found:
        shape = image_shape(geometry)
        expected["image"] = shape if len(found["image"]) == len(shape) else shape[-3:]
    if config.prompt_conditioning and "prompt_pad_mask" in found:
        tokens = found["prompt_pad_mask"][-1]
        expected |= {"prompt_emb": (1, tokens, config.prompt_embedding_dim or 0), "prompt_pad_mask": (1, tokens)}
    wrong = [f"{name} {list(found[name])}" for name, shape in expected.items() if found[name] != shape]
    if wrong:
        raise UserError(
            f"scenario {scenario.name}: does not fit the checkpoint's geometry",
            found=listed(wrong),
            expected=listed([f"{name} {list(shape)}" for name, shape in expected.items() if found[name] != shape]),
            do="use a scenario made for this checkpoint: waypoint-parity scenario --help",
        )
    prompt = "prompt_emb" in found
    if (config.prompt_conditioning is not None) != prompt:
        raise UserError(
            f"scenario {scenario.name}: prompt and checkpoint do not belong together",
            found="a prompt" if prompt else "no prompt",
            expected="a prompt" if config.prompt_conditioning else "no prompt",
            do="use a scenario made for this checkpoint: waypoint-parity scenario --help",
        )
    check_length(scenario.units, config, image="image" in found)
    sigmas = schedule(scenario, config)
    if (
        not bool(torch.isfinite(sigmas).all())
        or sigmas.ndim != 1
        or len(sigmas) < 2
        or not bool((sigmas.diff() < 0).all())
        or float(sigmas[-1]) != 0.0
    ):
        raise UserError(
            f"scenario {scenario.name}: not a sigma schedule",
            found=str(sigmas.tolist())[:200],
            expected="at least two finite values, strictly falling, the last one 0",
            do="correct the schedule",
        )


def check_length(frames: int, config: TransformerConfig, *, image: bool) -> None:
    """Raise UserError for a session with more frames than the model has times for; an `image` takes the first."""
    # Waypoint 1.5 computes its angles for whatever frame it is.
    if not config.is_waypoint_15 and frames + image > config.n_frames:
        raise UserError(
            "the session is longer than the model can run",
            found=f"{frames} frames" + (" after an image" if image else ""),
            expected=f"at most {config.n_frames - image} (n_frames {config.n_frames})",
            do="take a scenario of fewer frames",
        )


def prompt_lines(scenario: Scenario) -> list[str]:
    """What the prompt of a scenario looks like, if it has one, in a line for a terminal."""
    prompt = Inputs(scenario).prompt
    if prompt is None:
        return []
    values = summarise(prompt.embedding)
    numbers = {"mean": values.mean, "std": values.std, "min": values.min, "max": values.max}
    shown = ", ".join(f"{name} {value:.6g}" for name, value in numbers.items() if value is not None)
    padded = prompt.pad_mask.float().mean().item()
    return [f"prompt           {shown}, {padded:.1%} padded"]
