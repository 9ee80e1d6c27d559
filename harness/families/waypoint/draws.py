"""Making scenarios from seeds: noise, controls, a stand-in for an encoded prompt, a seed image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.scenario import IMAGE_SHAPE, Prompt, check, check_length
from waypoint_parity.harness.run.scenario import Scenario

NoisePolicy = Literal["per-frame", "global", "sliced"]
ControlStyle = Literal["idle", "random"]
DRAWN_TOKENS, MOST_TOKENS = 16, 2**16
# Of sessions that are only to be unlike another one.
_OTHER_SEED = 20261128


def image_tensor(picture: Image.Image, size: Sequence[int] = IMAGE_SHAPE[:2]) -> Tensor:
    """A picture as a seed image [H,W,3] uint8, upright, resized where it has another `size`: height and width.

    Raises UserError where it has no 8 bits a channel, and where pixels are transparent: what is behind is not known.
    """
    height, width = size
    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        raise UserError(
            "a seed image cannot be taken from this picture",
            found=f"pixels of mode {picture.mode}",
            expected="8 bits a channel",
            do="convert the picture",
        )
    if picture.has_transparency_data and picture.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise UserError(
            "a seed image cannot be taken from this picture",
            found="transparent pixels",
            expected="opaque ones",
            do="put the picture on a background",
        )
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    return torch.from_numpy(np.array(upright.resize((width, height), Image.Resampling.BICUBIC)))


def read_image(path: Path, size: Sequence[int] = IMAGE_SHAPE[:2]) -> Tensor:
    """The picture in a file as a seed image [H,W,3] uint8. Raises UserError for a file that is no picture."""
    try:
        with Image.open(path) as picture:
            return image_tensor(picture, size)
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: cannot be read as a picture", found=str(error), expected="a PNG or JPEG", do="name another file"
        ) from error


def noise_policy(name: str) -> NoisePolicy:
    """The noise policy of this name. Raises UserError where there is none."""
    if name not in get_args(NoisePolicy):
        raise UserError(
            "unknown noise policy", found=name, expected=f"one of {', '.join(get_args(NoisePolicy))}", do="correct it"
        )
    return cast(NoisePolicy, name)


def _seeded(seed: int) -> torch.Generator:
    """A generator. Raises UserError for a seed that none takes."""
    if not -(2**63) <= seed < 2**64:
        raise UserError(
            "nothing can be drawn from this seed",
            found=str(seed) if abs(seed) < 10**24 else "a number of more digits",
            expected="64 bits: from -2^63 to 2^64 - 1, and so the seed of the last frame, which is seed + frame",
            do="correct the seed",
        )
    return torch.Generator().manual_seed(seed)


def draw_noise(shape: tuple[int, int, int], frames: int, seed: int, policy: NoisePolicy) -> Tensor:
    """Start noise [F,1,1,C,H,W] fp32 under one of the policies that ports have used: same seed, different noises.

    `per-frame`: a generator seeded seed + frame index for every frame (the official per-frame script). `global`: one
    generator, drawn from frame after frame (the official package). `sliced`: one draw [1,C,F,H,W] for the whole
    session, in the usual layout of video latents, sliced per frame.
    """
    channels, height, width = shape
    frame_shape = (1, 1, channels, height, width)
    if policy == "per-frame":
        return torch.stack([torch.randn(frame_shape, generator=_seeded(seed + frame)) for frame in range(frames)])
    generator = _seeded(seed)
    if policy == "global":
        return torch.stack([torch.randn(frame_shape, generator=generator) for _ in range(frames)])
    whole = torch.randn((1, channels, frames, height, width), generator=generator)
    return whole.movedim(2, 0).unsqueeze(1).contiguous()


def draw_controls(n_buttons: int, frames: int, seed: int, style: ControlStyle) -> dict[str, Tensor]:
    """Controls of F frames: `idle`, or `random`, which moves everything (a button is down a quarter of the time)."""
    if style == "idle":
        return {
            "button": torch.zeros(frames, n_buttons),
            "mouse": torch.zeros(frames, 2),
            "scroll": torch.zeros(frames, 1),
        }
    generator = _seeded(seed)
    return {
        "button": (torch.rand(frames, n_buttons, generator=generator) < 0.25).float(),
        "mouse": torch.rand(frames, 2, generator=generator) * 2 - 1,
        "scroll": torch.randint(-1, 2, (frames, 1), generator=generator).float(),
    }


def draw_prompt(width: int, tokens: int, padding: int, seed: int) -> dict[str, Tensor]:
    """A stand-in for an encoded prompt: normal values [1,P,E], the last `padding` positions zero and masked."""
    embedding = torch.randn(1, tokens, width, generator=_seeded(seed))
    pad_mask = torch.arange(tokens)[None] >= tokens - padding
    return {"prompt_emb": embedding.masked_fill(pad_mask[..., None], 0.0), "prompt_pad_mask": pad_mask}


def make_scenario(
    geometry: WaypointGeometry,
    *,
    name: str,
    seed: int,
    units: int,
    noise_policy: NoisePolicy = "per-frame",
    controls: ControlStyle = "random",
    prompt_tokens: int = DRAWN_TOKENS,
    prompt_padding: int = 4,
    prompt: Prompt | None = None,
    image: Tensor | None = None,
) -> Scenario:
    """A scenario of so many frames from seeds alone, the same on every machine with the same torch.

    An encoded `prompt` takes the place of the one drawn. Raises UserError where the padding is longer than the prompt,
    for a session without frames, and for an encoded prompt that the model does not take.
    """
    drawn_prompt = 1 <= prompt_tokens <= MOST_TOKENS and 0 <= prompt_padding <= prompt_tokens
    if (prompt is None and not drawn_prompt) or units < 1:
        raise UserError(
            "scenario cannot be made",
            found=f"{prompt_padding} of {prompt_tokens} prompt tokens padding, {units} frames",
            expected=f"padding within a prompt of 1 to {MOST_TOKENS} tokens, and at least one frame",
            do="correct the call",
        )
    config = geometry.transformer
    check_length(units, config, image=image is not None)
    width = config.prompt_embedding_dim or 0 if config.prompt_conditioning else None
    tensors = {
        "noise": draw_noise(config.latent_shape, units, seed, noise_policy),
        **draw_controls(config.n_buttons, units, seed, controls),
        **({} if width is None else draw_prompt(width, prompt_tokens, prompt_padding, seed)),
        **({} if prompt is None else {"prompt_emb": prompt.embedding, "prompt_pad_mask": prompt.pad_mask}),
        **({} if image is None else {"image": image}),
    }
    labels = {"noise_policy": noise_policy}
    scenario = Scenario("waypoint", name, seed, units, tensors, labels=labels)
    check(scenario, geometry)
    return scenario


def other_session(scenario: Scenario, geometry: WaypointGeometry) -> Scenario:
    """A session with other noise, controls and prompt; its image is upside down, in other colours.

    The prompt has one token of padding fewer, where that can be. It is so long that every ring has two slots written.
    """
    config = geometry.transformer
    dilation = max(config.dilation(layer) for layer in range(config.n_layers))
    most = dilation + 1 if config.is_waypoint_15 else config.n_frames - (scenario.get("image") is not None)
    prompt, image = scenario.get("prompt_emb"), scenario.get("image")
    padded = 0 if prompt is None else int(scenario["prompt_pad_mask"].sum())
    return make_scenario(
        geometry,
        name="another session",
        seed=_OTHER_SEED if scenario.seed != _OTHER_SEED else _OTHER_SEED + 1,
        units=max(scenario.units, min(dilation + 1, most)),
        prompt_tokens=DRAWN_TOKENS if prompt is None else prompt.shape[1],
        prompt_padding=max(0, padded - 1),
        image=None if image is None else 255 - image.flip(-3),
    )
