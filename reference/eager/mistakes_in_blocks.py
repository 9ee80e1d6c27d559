"""Mistakes inside a block: how its branches read the stream and are added to it, and whose weights they have."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from waypoint_parity.reference.eager.kv_cache import RingCache
from waypoint_parity.reference.eager.layers import (
    Block,
    ControlFusion,
    CrossAttention,
    Modulation,
    OutNorm,
    PassContext,
    SelfAttention,
    modulated_norm,
    modulations,
)
from waypoint_parity.reference.eager.math import attention, rms_norm
from waypoint_parity.reference.eager.mistakes import Mistake, modules
from waypoint_parity.reference.eager.session import Session

ATTENTION, PROMPT, CONTROL, MLP = "attention", "prompt", "control", "mlp"
# What reads the stream behind a branch.
_READERS = ("prompt attention", "control fusion", "mlp", "residual")

# --- how the stream is read: normed, then modulated
Read = Callable[[Tensor, Tensor, Tensor], Tensor]


def _as_layer_norm(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])


READS: dict[str, Read] = {
    "scaled by s, not by 1 + s": lambda x, scale, bias: rms_norm(x) * scale + bias,
    "modulated before the norm": lambda x, scale, bias: rms_norm(x * (1 + scale) + bias),
    "biased before the scale": lambda x, scale, bias: (rms_norm(x) + bias) * (1 + scale),
    "not biased": lambda x, scale, bias: rms_norm(x) * (1 + scale),
    "scale and bias exchanged": lambda x, scale, bias: rms_norm(x) * (1 + bias) + scale,
    "not modulated": lambda x, scale, bias: rms_norm(x),
    "not normed": lambda x, scale, bias: x * (1 + scale) + bias,
    "with its mean taken off (layer norm)": lambda x, scale, bias: _as_layer_norm(x) * (1 + scale) + bias,
}
_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "not normed": lambda x: x,
    "with its mean taken off (layer norm)": _as_layer_norm,
}


@dataclass(frozen=True)
class Way:
    """How the branches of a block read the stream, and in which order and by which gates they are added to it.

    `beside`: the branches that read what the block was given.
    """

    attention: Read = modulated_norm
    mlp: Read = modulated_norm
    prompt: Callable[[Tensor], Tensor] = rms_norm
    control: Callable[[Tensor], Tensor] = rms_norm
    told_control: Callable[[Tensor], Tensor] = rms_norm
    order: tuple[str, ...] = (ATTENTION, PROMPT, CONTROL, MLP)
    beside: tuple[str, ...] = ()
    gates: Callable[[Modulation, Modulation], tuple[Tensor, Tensor]] = lambda attn, mlp: (attn.gate, mlp.gate)
    prompt_gate: bool = False


def rewired(way: Way, session: Session) -> None:
    """Make every block take this way."""
    for block in modules(session, Block):
        block.forward = partial(_forward, block, way)  # type: ignore[method-assign]


def _forward(block: Block, way: Way, x: Tensor, context: PassContext, cache: RingCache) -> Tensor:
    attn_mod, mlp_mod = modulations(block.cond_head(context.cond))
    attn_gate, mlp_gate = way.gates(attn_mod, mlp_mod)
    given = x
    for branch in way.order:
        read = given if branch in way.beside else x
        if branch == ATTENTION:
            x = x + attn_gate * block.attn(way.attention(read, attn_mod.scale, attn_mod.bias), context, cache)
        elif branch == PROMPT and block.prompt_cross_attn is not None and context.prompt is not None:
            told = block.prompt_cross_attn(way.prompt(read), rms_norm(context.prompt))
            x = x + (attn_gate * told if way.prompt_gate else told)
        elif branch == CONTROL and block.ctrl_mlpfusion is not None:
            x = x + block.ctrl_mlpfusion(way.control(read), way.told_control(context.ctrl))
        elif branch == MLP:
            x = x + mlp_gate * block.mlp(way.mlp(read, mlp_mod.scale, mlp_mod.bias))
    return x


def _read_out(read: Read, session: Session) -> None:
    for norm in modules(session, OutNorm):
        norm.forward = partial(_out_norm, norm, read)  # type: ignore[method-assign]


def _out_norm(norm: OutNorm, read: Read, x: Tensor, cond: Tensor) -> Tensor:
    scale, bias = norm.fc(silu(cond)).chunk(2, dim=-1)
    return read(x, scale, bias)


GATES: dict[str, Callable[[Modulation, Modulation], tuple[Tensor, Tensor]]] = {
    "the attention's gate is 1 + g": lambda attn, mlp: (1 + attn.gate, mlp.gate),
    "the MLP's gate is 1 + g": lambda attn, mlp: (attn.gate, 1 + mlp.gate),
    "both gates are 1 + g": lambda attn, mlp: (1 + attn.gate, 1 + mlp.gate),
    "the attention has no gate": lambda attn, mlp: (torch.ones_like(attn.gate), mlp.gate),
    "the MLP has no gate": lambda attn, mlp: (attn.gate, torch.ones_like(mlp.gate)),
    "gates exchanged": lambda attn, mlp: (mlp.gate, attn.gate),
    "gates through tanh": lambda attn, mlp: (attn.gate.tanh(), mlp.gate.tanh()),
}
ORDERS: dict[str, tuple[str, ...]] = {
    "controls before the prompt": (ATTENTION, CONTROL, PROMPT, MLP),
    "the prompt before the attention": (PROMPT, ATTENTION, CONTROL, MLP),
    "the MLP before the controls": (ATTENTION, PROMPT, MLP, CONTROL),
    "the MLP before prompt and controls": (ATTENTION, MLP, PROMPT, CONTROL),
}

# --- gates of the heads


def _gates_of(pick: Callable[[Tensor, Tensor, int], Tensor], session: Session) -> None:
    """Gates made of what is picked of the stream [1,T,M], of its modulated norm and of the number of heads."""
    for block in modules(session, Block):
        seen: dict[str, Tensor] = {}
        block.register_forward_pre_hook(partial(_note, seen, "stream"))
        block.attn.register_forward_pre_hook(partial(_note, seen, "read"))
        if block.attn.gate_proj is not None:
            block.attn.gate_proj.register_forward_pre_hook(partial(_picked, pick, seen, block.attn.n_heads))


def _note(seen: dict[str, Tensor], name: str, module: nn.Module, given: tuple[Tensor, ...]) -> None:
    seen[name] = given[0]


def _picked(
    pick: Callable[[Tensor, Tensor, int], Tensor],
    seen: dict[str, Tensor],
    heads: int,
    module: nn.Module,
    given: object,
) -> Tensor:
    return pick(seen["stream"], seen["read"], heads)


GATE_INPUTS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "the last channels": lambda stream, read, heads: read[..., -heads:],
    "the first channel of every head": lambda stream, read, heads: read[..., :: read.shape[-1] // heads],
    "the stream, neither normed nor modulated": lambda stream, read, heads: stream[..., :heads],
    "the stream normed and not modulated": lambda stream, read, heads: rms_norm(stream)[..., :heads],
}

# --- the value residual
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


def _values(mixed: Mix, following: Callable[[Tensor, Tensor, Tensor], Tensor], session: Session) -> None:
    """`mixed` of a layer's values, the remembered ones and the weight; `following`: what is remembered after it.

    That is made of the remembered values, the layer's own and the mixed ones.
    """
    for module in modules(session, SelfAttention):
        module._with_residual = partial(_residual, module, mixed, following)  # type: ignore[method-assign]


def _residual(module: SelfAttention, mixed: Mix, following: Mix, v: Tensor, context: PassContext) -> Tensor:
    first = v if context.first_value is None else context.first_value
    out = v if module.v_lamb is None else mixed(v, first, module.v_lamb)
    context.first_value = following(first, v, out)
    return out


def _mix(v: Tensor, first: Tensor, weight: Tensor) -> Tensor:
    return v + weight * (first - v)


# --- prompt and controls


def _prompt_exchanged(session: Session) -> None:
    for module in modules(session, CrossAttention):
        keys, values = module.k_proj.weight, module.v_proj.weight
        module.k_proj.weight, module.v_proj.weight = values, keys


def _prompt_scaled(by: Callable[[int], float], session: Session) -> None:
    for module in modules(session, CrossAttention):
        module.attend = partial(_scaled, by)


def _scaled(by: Callable[[int], float], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q * (by(q.shape[-1]) * q.shape[-1] ** 0.5), k, v)


def _self_scaled(by: Callable[[int], float], session: Session) -> None:
    for module in modules(session, SelfAttention):
        module.attend = partial(_scaled, by)


def _fusion(hidden: Callable[[Tensor, Tensor], Tensor], session: Session) -> None:
    """`hidden` of Wx x and Wc c."""
    for module in modules(session, ControlFusion):
        module.forward = partial(_fused, module, hidden)  # type: ignore[method-assign]


def _fused(module: ControlFusion, hidden: Callable[[Tensor, Tensor], Tensor], x: Tensor, ctrl: Tensor) -> Tensor:
    of_token, of_control = module.mlp.fc1.weight.chunk(2, dim=1)
    out: Tensor = module.mlp.fc2(hidden(linear(x, of_token), linear(ctrl, of_control)))
    return out


FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the control joins behind the silu": lambda x, control: silu(x) + control,
    "the token joins behind the silu": lambda x, control: x + silu(control),
    "each is activated by itself": lambda x, control: silu(x) + silu(control),
    "no silu": lambda x, control: x + control,
    "the control gates the token": lambda x, control: silu(control) * x,
    "the token gates the control": lambda x, control: silu(x) * control,
}

# --- whose weights
_OF_BLOCK: dict[str, tuple[str, ...]] = {
    "conditioning heads": ("cond_head",),
    "projections": ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.gate_proj"),
    "attention": ("attn.out_proj",),
    "prompt attention": ("prompt_cross_attn",),
    "control fusion": ("ctrl_mlpfusion",),
    "mlp": ("mlp",),
}
_SOURCES: dict[str, Callable[[int, int], int]] = {
    "the first block that has them": lambda place, number: 0,
    "the block before that has them": lambda place, number: max(place - 1, 0),
    "the next block that has them": lambda place, number: min(place + 1, number - 1),
}


def _weights_of(names: Sequence[str], source: Callable[[int, int], int], session: Session) -> None:
    blocks = list(modules(session, Block))
    for name in names:
        having = [found for block in blocks if isinstance(found := _at(block, name), nn.Module)]
        taken = [list(found.parameters()) for found in having]
        for place, found in enumerate(having):
            _give(found, taken[source(place, len(having))])


def _at(block: Block, name: str) -> object:
    found: object = block
    for step in name.split("."):
        found = getattr(found, step)
    return found


def _give(module: nn.Module, weights: Sequence[nn.Parameter]) -> None:
    """The module with other parameters, in its own order; those of its source stay as they are."""
    names = [name for name, _ in module.named_parameters()]
    for name, weight in zip(names, weights, strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(owner), leaf, weight)


def _turned_over(session: Session) -> None:
    for module in modules(session, SelfAttention):
        module.q_proj.weight = nn.Parameter(module.q_proj.weight.T, requires_grad=False)


def _keys_for_values(session: Session) -> None:
    for module in modules(session, SelfAttention):
        keys, values = module.k_proj.weight, module.v_proj.weight
        module.k_proj.weight, module.v_proj.weight = values, keys


def _heads_interleaved(session: Session) -> None:
    for module in modules(session, SelfAttention):
        for projection, heads in ((module.q_proj, module.n_heads), (module.k_proj, module.n_kv_heads)):
            weight = rearrange(projection.weight, "(D H) M -> (H D) M", H=heads)
            projection.weight = nn.Parameter(weight, requires_grad=False)


CONSUMED = "stream normed or modulated in another way where it is read"
OUT_CONSUMED = "output norm normed or modulated in another way"
GATED_BY = "gates taken from another input"
VALUE_RESIDUAL = "value residual of another layer, or in another form"
UNGATED = "a branch added by another gate, or in another order"
OTHER_PLACE = "a branch reads the stream in another place of the block"
SCALE = "another scale of the softmax"

MISTAKES = (
    *(Mistake(CONSUMED, said, partial(rewired, Way(attention=read)), ("projections",)) for said, read in READS.items()),
    *(Mistake(CONSUMED, said, partial(rewired, Way(mlp=read)), ("mlp",)) for said, read in READS.items()),
    *(Mistake(OUT_CONSUMED, said, partial(_read_out, read)) for said, read in READS.items() if "exchanged" not in said),
    *(
        Mistake(
            "input or control embedding not normed, or in another way",
            f"the tokens {said}",
            partial(rewired, Way(control=norm)),
        )
        for said, norm in _NORMS.items()
    ),
    *(
        Mistake(
            "input or control embedding not normed, or in another way",
            f"the control {said}",
            partial(rewired, Way(told_control=norm)),
        )
        for said, norm in _NORMS.items()
    ),
    *(
        Mistake(
            "prompt or stream normed in another way, or heads of another width",
            f"the stream {said}",
            partial(rewired, Way(prompt=norm)),
        )
        for said, norm in _NORMS.items()
    ),
    *(
        Mistake(OTHER_PLACE, "before the attention, beside it", partial(rewired, Way(beside=(branch,))), (part,))
        for branch, part in ((PROMPT, "prompt attention"), (CONTROL, "control fusion"), (MLP, "mlp"))
    ),
    *(Mistake(UNGATED, said, partial(rewired, Way(gates=gates)), _READERS) for said, gates in GATES.items()),
    *(Mistake(UNGATED, said, partial(rewired, Way(order=order)), _READERS) for said, order in ORDERS.items()),
    Mistake(UNGATED, "the attention's gate on the prompt too", partial(rewired, Way(prompt_gate=True)), _READERS),
    *(Mistake(GATED_BY, said, partial(_gates_of, pick)) for said, pick in GATE_INPUTS.items()),
    Mistake(VALUE_RESIDUAL, "the raw values of the layer before", partial(_values, _mix, lambda first, v, out: v)),
    Mistake(VALUE_RESIDUAL, "the mixed values of the layer before", partial(_values, _mix, lambda first, v, out: out)),
    Mistake(
        VALUE_RESIDUAL,
        "weights exchanged: w * v + (1 - w) * first",
        partial(_values, lambda v, first, weight: _mix(first, v, weight), lambda first, v, out: first),
    ),
    Mistake(VALUE_RESIDUAL, "left out", partial(_values, lambda v, first, weight: v, lambda first, v, out: first)),
    Mistake("keys and values of the prompt exchanged", "exchanged", _prompt_exchanged),
    Mistake(SCALE, "1/D: scaled twice", partial(_self_scaled, lambda width: 1 / width), ("attention",)),
    Mistake(SCALE, "1/D: scaled twice", partial(_prompt_scaled, lambda width: 1 / width), ("prompt attention",)),
    Mistake(SCALE, "1", partial(_prompt_scaled, lambda width: 1.0), ("prompt attention",)),
    *(
        Mistake("controls join the tokens in another form", said, partial(_fusion, hidden))
        for said, hidden in FUSIONS.items()
    ),
    Mistake("key and value slices of a merged projection exchanged", "exchanged", _keys_for_values),
    Mistake("weights of another block, or laid out otherwise", "queries transposed", _turned_over, ("projections",)),
    Mistake(
        "weights of another block, or laid out otherwise",
        "heads of queries and keys as the inner axis",
        _heads_interleaved,
        ("projections",),
    ),
    *(
        Mistake(
            "weights of another block, or laid out otherwise",
            f"of {said}",
            partial(_weights_of, names, source),
            (part,),
        )
        for part, names in _OF_BLOCK.items()
        for said, source in _SOURCES.items()
    ),
)
