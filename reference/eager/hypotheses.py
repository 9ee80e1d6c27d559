"""Mistakes that ports make, each as a change to a session of the reference: blame tries them, to prove or refute one.

Each is called after a kind of fault (harness.families.waypoint.kinds). What one of these does not reproduce is another
mistake, or one in another part.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, normalize, relu, silu

from waypoint_parity.reference.eager import math as formulas
from waypoint_parity.reference.eager.kv_cache import RingCache
from waypoint_parity.reference.eager.layers import (
    MLP,
    SIGMA_BASE,
    SIGMA_FREQUENCIES,
    SIGMA_SCALE,
    Block,
    ConditioningHead,
    ControlEmbedding,
    ControlFusion,
    CrossAttention,
    NoiseConditioner,
    OutNorm,
    PassContext,
    SelfAttention,
    modulated_norm,
)
from waypoint_parity.reference.eager.mistakes import Mistake, modules
from waypoint_parity.reference.eager.mistakes_around_blocks import MISTAKES as AROUND_BLOCKS
from waypoint_parity.reference.eager.mistakes_in_blocks import MISTAKES as IN_BLOCKS
from waypoint_parity.reference.eager.session import Session

# --- the noise level


def _phase_by(factor: float, session: Session) -> None:
    for conditioner in modules(session, NoiseConditioner):
        conditioner.frequencies = partial(_table_by, conditioner.frequencies, factor)  # type: ignore[method-assign]


def _table_by(table: Callable[[torch.dtype], Tensor], factor: float, dtype: torch.dtype) -> Tensor:
    return table(dtype) * factor


def _halves_exchanged(session: Session) -> None:
    for conditioner in modules(session, NoiseConditioner):
        conditioner.mlp.register_forward_pre_hook(lambda _, given: torch.cat(given[0].chunk(2, -1)[::-1], -1))


def _without_root_of_two(session: Session) -> None:
    for conditioner in modules(session, NoiseConditioner):
        conditioner.mlp.register_forward_pre_hook(lambda _, given: given[0] / 2**0.5)


def _mlp_in_bf16(session: Session) -> None:
    for conditioner in modules(session, NoiseConditioner):
        conditioner.mlp.to(torch.bfloat16)
        conditioner.mlp.register_forward_pre_hook(lambda _, given: given[0].to(torch.bfloat16))
        conditioner.mlp.register_forward_hook(lambda _, given, cond: cond.float())


def _table_to_the_end(made: Callable[[Tensor], Tensor], session: Session) -> None:
    table = made(torch.arange(SIGMA_FREQUENCIES, dtype=torch.float64) / SIGMA_FREQUENCIES)
    for conditioner in modules(session, NoiseConditioner):
        conditioner.frequencies = lambda dtype: table.to(dtype).float()  # type: ignore[method-assign]


# Phases reach 1000 radians, so that the last bit of a frequency is seen: in what arithmetic a table is made tells.
TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "by powers in fp64": lambda exponents: (SIGMA_BASE**-exponents).float(),
    "by powers in fp32": lambda exponents: SIGMA_BASE ** -exponents.float(),
    "by exp in fp32": lambda exponents: torch.exp(-math.log(SIGMA_BASE) * exponents.float()),
}


# --- what conditions the blocks


def _head_rows(order: tuple[int, ...], session: Session) -> None:
    for head in modules(session, ConditioningHead):
        head.register_forward_hook(lambda _, given, vectors: vectors[list(order)])


def _head_without_silu(session: Session) -> None:
    for head in modules(session, ConditioningHead):
        head.forward = partial(_projected, head)  # type: ignore[method-assign]


def _projected(head: ConditioningHead, cond: Tensor) -> Tensor:
    return torch.stack([project(cond + head.bias_in) for project in head.cond_proj])


def _bias_after_silu(session: Session) -> None:
    for head in modules(session, ConditioningHead):
        head.forward = partial(_biased_late, head)  # type: ignore[method-assign]


def _biased_late(head: ConditioningHead, cond: Tensor) -> Tensor:
    return torch.stack([project(silu(cond) + head.bias_in) for project in head.cond_proj])


def _out_norm_without_silu(session: Session) -> None:
    for norm in modules(session, OutNorm):
        norm.forward = partial(_out_norm, norm, lambda cond: cond, exchanged=False)  # type: ignore[method-assign]


def _out_norm_exchanged(session: Session) -> None:
    for norm in modules(session, OutNorm):
        norm.forward = partial(_out_norm, norm, silu, exchanged=True)  # type: ignore[method-assign]


def _out_norm(norm: OutNorm, of: Callable[[Tensor], Tensor], x: Tensor, cond: Tensor, *, exchanged: bool) -> Tensor:
    scale, bias = norm.fc(of(cond)).chunk(2, dim=-1)
    return modulated_norm(x, bias, scale) if exchanged else modulated_norm(x, scale, bias)


# --- controls


def _controls(order: Callable[[Tensor, Tensor, Tensor], list[Tensor]], session: Session) -> None:
    for embedding in modules(session, ControlEmbedding):
        embedding.forward = partial(_embedded, embedding, order)  # type: ignore[method-assign]


def _embedded(
    embedding: ControlEmbedding,
    order: Callable[[Tensor, Tensor, Tensor], list[Tensor]],
    mouse: Tensor,
    button: Tensor,
    scroll: Tensor,
) -> Tensor:
    out: Tensor = embedding.mlp(torch.cat(order(mouse, button, embedding.of_scroll(scroll))).expand(1, 1, -1))
    return out


CONTROLS: dict[str, Callable[[Tensor, Tensor, Tensor], list[Tensor]]] = {
    "the mouse's second coordinate flipped": lambda mouse, button, scroll: [mouse[:1], -mouse[1:], button, scroll],
    "the mouse's first coordinate flipped": lambda mouse, button, scroll: [-mouse[:1], mouse[1:], button, scroll],
    "both coordinates of the mouse flipped": lambda mouse, button, scroll: [-mouse, button, scroll],
    "the mouse's coordinates exchanged": lambda mouse, button, scroll: [mouse.flip(0), button, scroll],
    "the scroll flipped": lambda mouse, button, scroll: [mouse, button, -scroll],
    "the buttons in the opposite order": lambda mouse, button, scroll: [mouse, button.flip(0), scroll],
}


def _fused_halves(session: Session) -> None:
    for fusion in modules(session, ControlFusion):
        fusion.forward = partial(_fused, fusion)  # type: ignore[method-assign]


def _fused(fusion: ControlFusion, x: Tensor, ctrl: Tensor) -> Tensor:
    of_control, of_token = fusion.mlp.fc1.weight.chunk(2, dim=1)
    out: Tensor = fusion.mlp.fc2(silu(linear(x, of_token) + linear(ctrl, of_control)))
    return out


# --- prompt


def _masked_padding(session: Session) -> None:
    masks = list[Tensor]()
    session.input["prompt_pad_mask"].register_forward_hook(lambda _, given, mask: masks.append(mask))
    for attention in modules(session, CrossAttention):
        attention.register_forward_pre_hook(lambda _, given: (given[0], given[1][:, ~masks[-1][0]]))


def _prompt_heads(width: int, session: Session) -> None:
    for attention in modules(session, CrossAttention):
        if attention.q_proj.weight.shape[0] % width == 0:
            attention.head_dim = width


def _unnormed_prompt(session: Session) -> None:
    for attention in modules(session, CrossAttention):
        attention.forward = partial(_attended, attention)  # type: ignore[method-assign]


def _attended(attention: CrossAttention, x: Tensor, prompt: Tensor) -> Tensor:
    projected = attention.q_proj(x), attention.k_proj(prompt), attention.v_proj(prompt)
    heads = [rearrange(each, "B T (heads D) -> B heads T D", D=attention.head_dim) for each in projected]
    out: Tensor = attention.out_proj(rearrange(attention.attend(*heads), "B heads T D -> B T (heads D)"))
    return out


# --- rotation


def _rotated(rotate: Callable[[SelfAttention, Tensor, PassContext, int], Tensor], session: Session) -> None:
    """Queries and keys as `rotate` makes them of the projected ones [1,T,heads*D]; `heads` is its last argument."""
    for attention in modules(session, SelfAttention):
        attention.register_forward_pre_hook(partial(_remember, rotate))


def _remember(
    rotate: Callable[[SelfAttention, Tensor, PassContext, int], Tensor], module: nn.Module, given: tuple[object, ...]
) -> None:
    attention, x, context = module, given[0], given[1]
    assert isinstance(attention, SelfAttention)
    assert isinstance(x, Tensor)
    assert isinstance(context, PassContext)
    made = {"q_rope": (attention.q_proj, attention.n_heads), "k_rope": (attention.k_proj, attention.n_kv_heads)}
    for name, (projection, heads) in made.items():
        value = rotate(attention, linear(x, projection.weight), context, heads)
        # The probe shows it in the place of what the formula makes.
        attention.get_submodule(name).forward = partial(_instead, value)


def _instead(value: Tensor, _: Tensor) -> Tensor:
    return value


def _heads(projected: Tensor, heads: int) -> Tensor:
    return rearrange(projected, "B T (H D) -> B H T D", H=heads)


def _not_rotated(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    still = torch.stack([torch.ones_like(context.rotation[0]), torch.zeros_like(context.rotation[1])])
    return formulas.rotate(formulas.rms_norm(_heads(projected, heads)), still)


def _left_alone(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    return formulas.rms_norm(_heads(projected, heads))


def _unnormed(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    return formulas.rotate(_heads(projected, heads), context.rotation)


def _normed_together(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    return formulas.rotate(_heads(formulas.rms_norm(projected), heads), context.rotation)


def _layer_normed(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    split = _heads(projected, heads)
    return formulas.rotate(layer_norm(split, split.shape[-1:]), context.rotation)


def _normed_to_length_one(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    return formulas.rotate(normalize(_heads(projected, heads), dim=-1), context.rotation)


def _axes_exchanged(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    along_x, along_y, along_t = _by_axis(context.rotation)
    return formulas.rotate(formulas.rms_norm(_heads(projected, heads)), torch.cat([along_y, along_x, along_t], -1))


def _halves_as_pairs(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    cos, sin = context.rotation
    first, second = formulas.rms_norm(_heads(projected, heads)).float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(projected.dtype)


def _interleaved(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    turned = formulas.rotate(formulas.rms_norm(_heads(projected, heads)), context.rotation)
    return torch.stack(turned.chunk(2, dim=-1), dim=-1).flatten(-2)


def _turned_back(_: SelfAttention, projected: Tensor, context: PassContext, heads: int) -> Tensor:
    cos, sin = context.rotation
    return formulas.rotate(formulas.rms_norm(_heads(projected, heads)), torch.stack([cos, -sin]))


def _times_of(head_width: int, session: Session) -> None:
    _rotated(partial(_time_of, head_width, session.model.config.clock_ratio), session)


def _time_of(
    head_width: int, ratio: int, _: SelfAttention, projected: Tensor, context: PassContext, heads: int
) -> Tensor:
    along_x, along_y, along_t = _by_axis(context.rotation)
    pairs = torch.arange(0, along_t.shape[-1], 2, dtype=torch.float32) * 4 / head_width
    angles = context.frame * ratio * (1.0 / formulas.TEMPORAL_BASE**pairs).repeat_interleave(2)
    time = formulas.cosines_and_sines(angles.expand(along_t.shape[-2], -1)).to(along_t)
    return formulas.rotate(formulas.rms_norm(_heads(projected, heads)), torch.cat([along_x, along_y, time], -1))


def _by_axis(rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[2,1,1,T,D/2] -> the pairs that turn by x, by y and by time."""
    share = rotation.shape[-1] // 4
    along_x, along_y, along_t = rotation.split([share, share, 2 * share], dim=-1)
    return along_x, along_y, along_t


# --- attention


def _attend(attend: Callable[[Tensor, Tensor, Tensor], Tensor], session: Session) -> None:
    for attention in modules(session, SelfAttention):
        attention.attend = attend  # type: ignore[assignment]


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    tokens, group = q.shape[2], q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = q.float() @ k.float().transpose(-2, -1) / q.shape[-1] ** 0.5
    # The frame's own tokens are the last ones.
    later = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).triu(1)
    scores[..., -tokens:] = scores[..., -tokens:].masked_fill(later, -torch.inf)
    out: Tensor = scores.softmax(dim=-1).to(v.dtype) @ v
    return out


def _scaled_by(scale: float, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return formulas.attention(q * (scale * q.shape[-1] ** 0.5), k, v)


def _groups_in_turn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    times = q.shape[1] // k.shape[1]
    return formulas.attention(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1))


# --- caches


def _in_sight(see: Callable[[RingCache, int], Tensor], session: Session) -> None:
    for ring in session.kv_cache.rings():
        ring.in_sight = partial(see, ring)  # type: ignore[method-assign]


def _everything_written(ring: RingCache, frame: int) -> Tensor:
    return torch.cat([ring.ring_written, ring.ring_written.new_ones(ring.tokens)])


def _whole_ring(ring: RingCache, frame: int) -> Tensor:
    mask = ring.ring_written.new_zeros(ring.capacity)
    mask[: ring.slots * ring.tokens] = True
    if ring.is_write_frame(frame):
        first = ring.slot(frame) * ring.tokens
        mask[first : first + ring.tokens] = False
    return torch.cat([mask, mask.new_ones(ring.tokens)])


def _no_history(ring: RingCache, frame: int) -> Tensor:
    return torch.cat([torch.zeros_like(ring.ring_written), ring.ring_written.new_ones(ring.tokens)])


def _slot_rounded_down(session: Session) -> None:
    for ring in session.kv_cache.rings():
        ring.slot = partial(_slot_below, ring)  # type: ignore[method-assign]


def _slot_below(ring: RingCache, frame: int) -> int:
    return frame // ring.dilation % ring.slots


# --- blocks


def _activation(of: Callable[[Tensor], Tensor], session: Session) -> None:
    for block in modules(session, Block):
        block.mlp.forward = partial(_activated, block.mlp, of)  # type: ignore[method-assign]


def _activated(mlp: MLP, of: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out: Tensor = mlp.fc2(of(mlp.fc1(x)))
    return out


MISTAKES = (
    Mistake("sines and cosines in another order", "cosines first", _halves_exchanged),
    Mistake("sigma not multiplied by 1000", "frequencies by 1/1000", partial(_phase_by, 1 / SIGMA_SCALE)),
    *(
        Mistake(
            "another table of frequencies",
            f"exponents -i/n, in the place of -i/(n-1), {said}",
            partial(_table_to_the_end, made),
        )
        for said, made in TABLES.items()
    ),
    Mistake(
        "features or MLP of another form: sqrt(2) left out, GELU for SiLU", "sqrt(2) left out", _without_root_of_two
    ),
    Mistake("noise conditioner computed in bf16", "its MLP in bf16", _mlp_in_bf16),
    Mistake(
        "modulation slots exchanged between attention and MLP, or scale with bias",
        "those of attention and MLP",
        partial(_head_rows, (3, 4, 5, 0, 1, 2)),
    ),
    Mistake(
        "modulation slots exchanged between attention and MLP, or scale with bias",
        "scale with bias",
        partial(_head_rows, (1, 0, 2, 4, 3, 5)),
    ),
    Mistake("silu missing, or the block's bias added after it", "no silu", _head_without_silu),
    Mistake("silu missing, or the block's bias added after it", "the bias after silu", _bias_after_silu),
    Mistake("modulation of the output norm without silu", "no silu", _out_norm_without_silu),
    Mistake("output norm normed or modulated in another way", "exchanged", _out_norm_exchanged),
    Mistake(
        "controls in another order, such as buttons before mouse",
        "button, mouse, scroll",
        partial(_controls, lambda mouse, button, scroll: [button, mouse, scroll]),
    ),
    Mistake(
        "scroll dropped, or not reduced to its sign",
        "scroll dropped",
        partial(_controls, lambda mouse, button, scroll: [mouse, button, torch.zeros_like(scroll)]),
    ),
    *(
        Mistake("a control with another sign, or two of them exchanged", said, partial(_controls, order))
        for said, order in CONTROLS.items()
    ),
    Mistake(
        "halves of the merged fusion weight exchanged, or one left at its initial value", "exchanged", _fused_halves
    ),
    Mistake("padding masked out of the attention to the prompt", "masked out", _masked_padding),
    Mistake("queries and keys of the attention to the prompt not normed", "not normed", _unnormed_prompt),
    *(
        Mistake(
            "prompt or stream normed in another way, or heads of another width",
            f"heads of {width}",
            partial(_prompt_heads, width),
        )
        for width in (16, 32, 64, 128)
    ),
    Mistake("rotation not applied", "angles of 0", partial(_rotated, _not_rotated)),
    Mistake("rotation not applied", "pairs left where they are", partial(_rotated, _left_alone)),
    Mistake("queries and keys not normed", "rotated as projected", partial(_rotated, _unnormed)),
    Mistake("queries and keys normed in another way", "over all heads together", partial(_rotated, _normed_together)),
    Mistake("queries and keys normed in another way", "as a layer norm", partial(_rotated, _layer_normed)),
    Mistake("queries and keys normed in another way", "to length 1", partial(_rotated, _normed_to_length_one)),
    Mistake(
        "x and y axes of the rotation exchanged, or pairs laid out otherwise",
        "x and y exchanged",
        partial(_rotated, _axes_exchanged),
    ),
    Mistake(
        "x and y axes of the rotation exchanged, or pairs laid out otherwise",
        "pairs (j, j + D/2)",
        partial(_rotated, _halves_as_pairs),
    ),
    Mistake(
        "x and y axes of the rotation exchanged, or pairs laid out otherwise",
        "components interleaved again",
        partial(_rotated, _interleaved),
    ),
    Mistake(
        "x and y axes of the rotation exchanged, or pairs laid out otherwise",
        "turned the other way",
        partial(_rotated, _turned_back),
    ),
    *(
        Mistake(
            "temporal frequencies of another head width",
            f"those of {width}",
            partial(_times_of, width),
        )
        for width in (32, 64, 128)
    ),
    Mistake("causal mask among the tokens of one frame", "causal", partial(_attend, _causal)),
    Mistake(
        "query heads read other key heads", "head j reads j mod G, not j // (H/G)", partial(_attend, _groups_in_turn)
    ),
    *(
        Mistake(
            "another scale of the softmax",
            f"1/sqrt({width})",
            partial(_attend, partial(_scaled_by, width**-0.5)),
        )
        for width in (64, 128)
    ),
    Mistake("another scale of the softmax", "1", partial(_attend, partial(_scaled_by, 1.0))),
    Mistake(
        "slot about to be replaced stays visible",
        "every written slot in sight",
        partial(_in_sight, _everything_written),
    ),
    Mistake(
        "slots that were never written are attended to, as zeros",
        "the whole ring in sight",
        partial(_in_sight, _whole_ring),
    ),
    Mistake("no history at all", "the frame alone in sight", partial(_in_sight, _no_history)),
    Mistake("slot of a frame rounded down instead of up", "floor(t / d)", _slot_rounded_down),
    Mistake("another activation", "gelu", partial(_activation, gelu)),
    Mistake("another activation", "gelu (tanh)", partial(_activation, partial(gelu, approximate="tanh"))),
    Mistake("another activation", "relu", partial(_activation, relu)),
    *IN_BLOCKS,
    *AROUND_BLOCKS,
)
