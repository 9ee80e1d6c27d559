"""The specification's rules, followed literally, in fp64: slow, without a cache's layout, one frame after the other."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.scenario import Controls

Weights = Mapping[str, Tensor]


def off(actual: Tensor, expected: Tensor) -> float:
    """Relative L2 error."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


class LiteralRing:
    """The official cache in the specification's words: slots of frame numbers, a tail, and which slots are hidden."""

    def __init__(self, frames: int, dilation: int) -> None:
        self.frames, self.dilation = frames, dilation
        self.slots: list[int | None] = [None] * frames

    def slot(self, t: int) -> int:
        return -(-t // self.dilation) % (self.frames // self.dilation)

    def visible(self, t: int) -> set[int]:
        """Frames seen by frame `t`: itself, and every slot written, but on a write frame the one to be replaced."""
        hidden = self.slot(t) if t % self.dilation == 0 else None
        return {t} | {frame for i, frame in enumerate(self.slots) if frame is not None and i != hidden}

    def cache_pass(self, t: int) -> None:
        if t % self.dilation == 0:
            self.slots[self.slot(t)] = t


class LiteralModel:
    """Waypoint 1.5. Every frame's keys and values are kept; a ring says which of them a pass sees."""

    def __init__(self, config: TransformerConfig, weights: Weights) -> None:
        self.config = config
        self.weights = {key: value.double() for key, value in weights.items()}
        layers = range(config.n_layers)
        self.rings = [LiteralRing(config.ring_frames(layer), config.dilation(layer)) for layer in layers]
        self.kept: list[dict[int, tuple[Tensor, Tensor]]] = [{} for _ in layers]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self.linear(f"{name}.fc2", functional.silu(self.linear(f"{name}.fc1", x)))

    def velocity(self, latent: Tensor, sigma: float, f: int, controls: Controls) -> Tensor:
        """`latent` [C,h*ph,w*pw] of frame `f` -> its velocity. What it leaves behind is `kept`, for `remember`."""
        config = self.config
        # Phases reach 1000 radians: their rounding in fp32 is part of the model.
        phase = (torch.tensor(sigma) * 1000 * torch.logspace(0, -1, 256, base=10000)).double()
        cond = self.mlp("denoise_step_emb.mlp", math.sqrt(2) * torch.cat((phase.sin(), phase.cos())))
        control = self.mlp("ctrl_emb.mlp", torch.cat((controls.mouse, controls.button, controls.scroll)).double())
        patches = functional.conv2d(latent.double()[None], self.weights["patchify.weight"], stride=config.patch)
        x = patches[0].flatten(1).T
        self.first = None
        for layer in range(config.n_layers):
            x = self.block(layer, x, cond, control, f)
        scale, bias = self.linear("out_norm.fc", functional.silu(cond)).chunk(2)
        out = self.linear("unpatchify", functional.silu(_rms_norm(x) * (1 + scale) + bias))
        grid = (out + self.weights["unpatchify.bias"]).view(config.height, config.width, config.channels, *config.patch)
        return grid.permute(2, 0, 3, 1, 4).reshape(config.latent_shape)

    def block(self, layer: int, x: Tensor, cond: Tensor, control: Tensor, f: int) -> Tensor:
        name = f"transformer.blocks.{layer}"
        lit = functional.silu(cond + self.weights[f"{name}.cond_head.bias_in"])
        s0, b0, g0, s1, b1, g1 = (self.linear(f"{name}.cond_head.cond_proj.{slot}", lit) for slot in range(6))
        x = x + g0 * self.attention(layer, _rms_norm(x) * (1 + s0) + b0, f)
        if self.config.has_control(layer):
            both = torch.cat((_rms_norm(x), _rms_norm(control).expand_as(x)), dim=-1)
            x = x + self.mlp(f"{name}.ctrl_mlpfusion.mlp", both)
        return x + g1 * self.mlp(f"{name}.mlp", _rms_norm(x) * (1 + s1) + b1)

    def attention(self, layer: int, a: Tensor, f: int) -> Tensor:
        config, name = self.config, f"transformer.blocks.{layer}.attn"
        q, k, v = (self.linear(f"{name}.{part}_proj", a) for part in "qkv")
        self.first = v if self.first is None else self.first
        v = v + self.weights[f"{name}.v_lamb"] * (self.first - v)
        q, k, v = (part.unflatten(-1, (-1, config.head_dim)) for part in (q, k, v))
        self.kept[layer][f] = self.rotated(_rms_norm(k), f), v
        seen = [self.kept[layer][frame] for frame in self.rings[layer].visible(f)]
        keys, values = (torch.cat(parts) for parts in zip(*seen, strict=True))
        q, heads = self.rotated(_rms_norm(q), f), []
        for head in range(config.n_heads):
            group = head // (config.n_heads // config.n_kv_heads)
            shares = (q[:, head] @ keys[:, group].T / math.sqrt(config.head_dim)).softmax(-1)
            heads.append(shares @ values[:, group])
        out = torch.stack(heads, dim=1)
        if config.gated_attn:
            out = out * self.linear(f"{name}.gate_proj", a[:, : config.n_heads]).sigmoid()[..., None]
        return self.linear(f"{name}.out_proj", out.flatten(1))

    def rotated(self, x: Tensor, f: int) -> Tensor:
        """`x` [T,heads,D], every token's pairs turned by its column, its row and the time."""
        config, pairs = self.config, self.config.head_dim // 2
        token = torch.arange(config.height * config.width).double()
        column, row = token % config.width, token // config.width
        highest = config.rope_nyquist_frac * min(config.height, config.width)
        places = math.pi * torch.linspace(1, highest / 2, config.head_dim // 16).double().repeat_interleave(2)
        times = [config.rope_theta ** -(2 * (pair // 2) / (pairs // 2)) for pair in range(pairs // 2)]
        angles = torch.cat(
            (
                torch.outer((2 * column + 1) / config.width - 1, places),
                torch.outer((2 * row + 1) / config.height - 1, places),
                f * config.clock_ratio * torch.tensor(times).double().expand(len(token), -1),
            ),
            dim=-1,
        )[:, None]
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.cat((a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()), dim=-1)

    def remember(self, f: int) -> None:
        """After the cache pass of frame `f`."""
        for ring in self.rings:
            ring.cache_pass(f)


def _rms_norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()


class OneByOne:
    """The rules, literally: frame after frame, depth first; a layer that remembers keeps the frame that it saw last."""

    def __init__(self, half: str, weights: Weights) -> None:
        self.half, self.weights = half, {key: value.double() for key, value in weights.items()}
        self.past: dict[int, Tensor] = {}
        self.waiting: dict[int, list[Tensor]] = {}

    def feed(self, x: Tensor, place: int) -> Iterator[Tensor]:
        """What becomes of one frame `x` [1,c,H,W] from the layer at `place` on."""
        for following, y in self.layer(place, x):
            yield from [y] if following is None else self.feed(y, following)

    def layer(self, n: int, x: Tensor) -> Iterator[tuple[int | None, Tensor]]:
        """The frames that layer `n` makes of frame `x` now, each with the place where it goes on."""
        encoder = self.half == "encoder"
        if n in ((2, 7, 12) if encoder else ()):
            group = self.waiting.setdefault(n, [])
            group.append(x)
            if len(group) == (1 if n == 12 else 2):
                yield n + 1, self.conv(f"{n}.conv", torch.cat(group, dim=1), padding=0)
                group.clear()
        elif n in ((3, 8, 13) if encoder else ()):
            yield n + 1, self.conv(str(n), x, stride=2)
        elif n in ((7, 13, 19) if not encoder else ()):
            doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            for frame in self.conv(f"{n}.conv", doubled, padding=0).split(x.shape[1], dim=1):
                yield n + 1, frame
        elif f"{self.half}.{n}.conv.0.weight" in self.weights:
            before = self.past.get(n, torch.zeros_like(x))
            self.past[n] = x
            h = self.conv(f"{n}.conv.0", torch.cat([x, before], dim=1)).relu()
            # In the decoder a stage's third block is followed by the doubling, which belongs to the TGrow here.
            skip = not encoder and n in (5, 11, 17)
            yield n + 1 + skip, (self.conv(f"{n}.conv.4", self.conv(f"{n}.conv.2", h).relu()) + x).relu()
        else:
            last, y = 17 if encoder else 22, self.conv(str(n), x)
            after_relu = {0: 2} if encoder else {1: 3, 20: 22}
            yield (None if n == last else after_relu.get(n, n + 1)), (y.relu() if n in after_relu else y)

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        key = f"{self.half}.{name}"
        bias = self.weights.get(f"{key}.bias")
        return functional.conv2d(x, self.weights[f"{key}.weight"], bias, stride=stride, padding=padding)


def decoded_one_by_one(weights: Weights, given: Tensor) -> Iterator[Tensor]:
    """The pixels [4,3,H,W] of each latent in `given`, in fp64, not clamped."""
    decoder = OneByOne("decoder", weights)
    for number, latent in enumerate(given.double()):
        for feed in range(1 if number else 4):
            frames = list(decoder.feed(torch.tanh(latent / 3) * 3, 1))
            assert len(frames) == 4, feed
        yield functional.pixel_shuffle(torch.cat(frames), 2)


def encoded_one_by_one(weights: Weights, given: Tensor) -> Iterator[Tensor]:
    """The latent [1,C,h,w] of each four pictures in `given`, in fp64."""
    encoder = OneByOne("encoder", weights)
    for four in given:
        made = [
            latent
            for picture in four.double().movedim(-1, 1) / 255
            for latent in encoder.feed(functional.pixel_unshuffle(picture[None], 2), 0)
        ]
        assert len(made) == 1
        yield made[0]
