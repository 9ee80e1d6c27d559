"""Relations: how what a site shows follows from what it should show, found in the values alone, for any model.

A relation is fitted on one observation and checked on all others that were kept. It holds where it leaves no more than
the noise of the site in every one of them. So it is proven, not guessed: no name of a site and no model is known here.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations, permutations, takewhile

import torch
from torch import Tensor
from torch.nn import functional

from waypoint_parity.harness.run.keys import Key

# What a relation leaves is at most a twentieth of what was wrong: nearer to noise than that, anything fits.
_LEAST = 20.0
# Noise of the two values adds up, and a relation may amplify it a little.
SLACK = 2.0
# Slices of an axis, and elements, up to which orders are searched for.
_MOST_SLICES, _MOST_ELEMENTS = 4096, 1 << 24
# Of fewer numbers anything may hold.
_FEWEST_ELEMENTS = 8
# Of a number in every pass: so many different ones are needed, which are equal to rounding in fp32.
_FEWEST_LEVELS, _LEVEL_NOISE = 3, 2e-6
_SHIFTS = (1, -1, 2, -2)
# Pixels along one side of a cell, of a patch or a pixel shuffle.
_CELL = 2
# A value has at least so many numbers for each weight that is fitted anew in every pass.
_NUMBERS_A_WEIGHT = 16
_RIGHT = ["the right value"]
_SCALED = "it is the right value times another number in every pass"
# A number of so few characters needs no explanation.
_PLAIN = 6
# A fitted number that is so near to a whole one is that.
_WHOLE = 1e-4
# The narrowest first.
_NARROW = {
    "float8_e5m2": torch.float8_e5m2,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_NORM = "a norm over the last axis"
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu (tanh)": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    _NORM: lambda x: x / x.square().mean(-1, keepdim=True).sqrt(),
}


@dataclass(frozen=True)
class Values:
    """One observation: what the candidate showed, and what is right for the same inputs; fp64, of one shape.

    `bound`: the relative L2 of its noise. `read`: what both were given, by the sites that showed it. `others`: right
    values of the site in other passes, and of sites beside it, by which ones they are.
    """

    key: Key
    shown: Tensor
    right: Tensor
    bound: float
    read: Mapping[str, Tensor]
    others: Mapping[str, Tensor]

    @property
    def error(self) -> float:
        """The relative L2 error as it is."""
        return distance(self.shown, self.right)


@dataclass(frozen=True)
class Held:
    """A relation that holds, in words; the largest error without it and with it, in `of` observations.

    Of an `extent`, which only says where alone something is wrong, `after` is the error elsewhere.
    """

    statement: str
    before: float
    after: float
    of: int
    extent: bool = False


@dataclass(frozen=True)
class _Relation:
    """`makes` the shown value from a pair; None where it says nothing of it. `cost`: how many numbers were fitted."""

    statement: str
    cost: int
    makes: Callable[[Values], Tensor | None]


def relations(pairs: Sequence[Values]) -> list[Held]:
    """Every relation that holds in all of the pairs; of those that do, the ones with the fewest fitted numbers.

    Where an axis has wrong slices and right ones, what holds of the wrong ones.
    """
    if pairs and all(pair.shown.numel() == pair.right.numel() == 1 for pair in pairs):
        return _of_series(pairs)
    usable = [pair for pair in pairs if _is_usable(pair)]
    if not usable or len(usable) < len(pairs) or sum(pair.right.numel() for pair in usable) < _FEWEST_ELEMENTS:
        return []
    # Of one number or none; then of a part of an axis; then of as many numbers as it takes.
    return (
        _holding(usable, most=1)
        or _in_part(usable)
        or _holding(usable)
        or _narrowed(usable)
        or [held for axis in range(usable[0].right.dim()) for held in _confined(usable, axis)]
    )


def _of_series(pairs: Sequence[Values]) -> list[Held]:
    """What holds of one number in every pass, such as a noise level: it is another function of the right one."""
    numbers = [(float(pair.shown), float(pair.right)) for pair in pairs]
    if len({right for _, right in numbers}) < _FEWEST_LEVELS or not all(map(math.isfinite, chain(*numbers))):
        return []
    shown, right = max(numbers, key=lambda both: abs(both[0] - both[1]))
    made: list[tuple[str, Callable[[float], float]]] = [
        ("1 less the right one", lambda x: 1 - x),
        ("the right one cut to whole thousandths", lambda x: math.floor(1000 * x) / 1000),
        ("the right one rounded to whole thousandths", lambda x: round(1000 * x) / 1000),
        (f"the right one and {_number(shown - right)}", lambda x: x + shown - right),
    ]
    if right:
        made.append((f"the right one times {_number(shown / right)}", lambda x: x * shown / right))
    if 0 < right < 1 and 0 < shown < 1:
        by = shown * (1 - right) / (right * (1 - shown))
        said = f"the right one shifted by {_number(by)}: k s / (1 + (k - 1) s)"
        made.append((said, lambda x: by * x / (1 + (by - 1) * x)))
    before = max(abs(shown - right) / max(abs(right), _LEVEL_NOISE) for shown, right in numbers)
    held = []
    for said, of in made:
        after = max(abs(shown - of(right)) / max(abs(shown), _LEVEL_NOISE) for shown, right in numbers)
        if after <= max(_LEVEL_NOISE, SLACK * max(pair.bound for pair in pairs)) and after < before / _LEAST:
            held.append(Held(f"it is {said}", before, after, len(pairs)))
    return held


def _in_part(pairs: Sequence[Values]) -> list[Held]:
    """What holds of the wrong slices of an axis whose other slices are right."""
    shape = list(pairs[0].right.shape)
    for axis in range(len(shape)):
        wrong = wrong_slices(pairs, axis)
        if wrong is not None:
            found = _holding([_within(pair, axis, wrong) for pair in pairs])
            where = f"at {_listed(wrong)} of axis {axis} of {shape} alone"
            return [replace(held, statement=f"{where}: {held.statement}") for held in found]
    return []


def _confined(pairs: Sequence[Values], axis: int) -> list[Held]:
    """That some slices of an axis alone are wrong, whatever is wrong with them."""
    wrong = wrong_slices(pairs, axis)
    if wrong is None:
        return []
    shape = list(pairs[0].right.shape)
    others = [place for place in range(shape[axis]) if place not in wrong]
    before, elsewhere = (
        max(pair.error for pair in these) for these in (pairs, [_within(p, axis, others) for p in pairs])
    )
    return [
        Held(f"it is wrong at {_listed(wrong)} of axis {axis} of {shape} alone", before, elsewhere, len(pairs), True)
    ]


def wrong_slices(pairs: Sequence[Values], axis: int) -> list[int] | None:
    """The slices of an axis that are wrong in any pair, where they are at most half of them and the others right."""
    size = pairs[0].right.shape[axis]
    if size < 2 or any(pair.right.shape[axis] != size for pair in pairs):
        return None
    wrong: set[int] = set()
    for pair in pairs:
        others = [other for other in range(pair.right.dim()) if other != axis]
        difference, right = ((pair.shown - pair.right).square(), pair.right.square())
        errors = difference.sum(others) if others else difference
        norms = right.sum(others) if others else right
        limit = (SLACK * pair.bound) ** 2 * norms.maximum(right.sum() / size)
        wrong |= {int(place) for place in (errors > limit).nonzero().flatten()}
    return sorted(wrong) if 0 < len(wrong) <= size // 2 else None


def _within(pair: Values, axis: int, places: Sequence[int]) -> Values:
    def part(x: Tensor) -> Tensor:
        if x.shape != pair.right.shape:
            return x
        return x.index_select(axis, torch.tensor(places, device=x.device))

    read, others = ({name: part(x) for name, x in values.items()} for values in (pair.read, pair.others))
    return replace(pair, shown=part(pair.shown), right=part(pair.right), read=read, others=others)


def _is_usable(pair: Values) -> bool:
    if pair.shown.shape != pair.right.shape or not 1 < pair.right.numel() <= _MOST_ELEMENTS:
        return False
    return bool(pair.shown.isfinite().all() and pair.right.isfinite().all())


def _holding(pairs: Sequence[Values], most: float = math.inf) -> list[Held]:
    """The cheapest of the relations that hold in all pairs, of those with at `most` so many fitted numbers."""
    # Fitted where the most is wrong.
    first = max(pairs, key=lambda pair: pair.error)
    if any(pair.error <= _LEAST * pair.bound for pair in pairs):
        return []
    held: dict[int, list[Held]] = {}
    for relation in _candidates(first):
        if relation.cost > min(held, default=most):
            continue
        # Numbers that were fitted to one observation say nothing before they are checked on another one.
        if relation.cost > 1 and len(pairs) == 1:
            continue
        # Up to the first pair in which it does not hold.
        left = list(takewhile(lambda after: after is not None, (_left(relation, pair) for pair in pairs)))
        if len(left) == len(pairs):
            before, after = max(pair.error for pair in pairs), max(filter(None, left), default=0.0)
            held.setdefault(relation.cost, []).append(Held(relation.statement, before, after, len(pairs)))
    return held[min(held)] if held else []


def _left(relation: _Relation, pair: Values) -> float | None:
    """The error that is left with a relation; None where it does not hold."""
    made = relation.makes(pair)
    if made is None or made.shape != pair.shown.shape:
        return None
    # Of the shown value, which a relation may have made large or small.
    after = distance(pair.shown, made, relative_to=pair.shown)
    return after if after <= min(SLACK * pair.bound, pair.error / _LEAST) else None


def distance(x: Tensor, right: Tensor, relative_to: Tensor | None = None) -> float:
    """The relative L2 distance of `x` from what is right."""
    size = float((right if relative_to is None else relative_to).norm())
    off = float((x - right).norm())
    return off / size if size else (math.inf if off else 0.0)


def _candidates(first: Values) -> Iterator[_Relation]:
    """What may hold, as fitted to one pair; the cheapest kinds first."""
    if bool((first.shown == first.shown.flatten()[0]).all()):
        value = float(first.shown.flatten()[0])
        yield _Relation(f"it is {_number(value)} everywhere", 0, lambda pair: torch.full_like(pair.right, value))
    makers = (
        _of_other_values,
        _of_functions,
        _of_axes,
        _of_reads,
        _of_numbers,
        _of_orders,
        _of_cells,
        _of_rows,
        _of_weights,
    )
    for maker in makers:
        yield from maker(first)


def _of_other_values(first: Values) -> Iterator[_Relation]:
    for name, other in first.others.items():
        yield _Relation(f"it is the value of {name}", 0, partial(_mixed, name, 0.0, 1.0))
        weights = _fitted(first.shown, [first.right, other]) if other.shape == first.right.shape else None
        if weights is not None:
            statement = f"{_number(weights[0])} times the right value and {_number(weights[1])} times that of {name}"
            yield _Relation(statement, 2, partial(_mixed, name, weights[0], weights[1]))


def _mixed(name: str, own: float, other: float, pair: Values) -> Tensor | None:
    value = pair.others.get(name)
    return None if value is None or value.shape != pair.right.shape else own * pair.right + other * value


def _of_functions(first: Values) -> Iterator[_Relation]:
    for name in _FUNCTIONS if first.right.dim() else ():
        yield _Relation(f"{name} is applied once more", 0, partial(_applied, name))
        # A norm makes rows of any length the same: what is right behind it may lack it, or have another one.
        missing = (
            f"it is right once {name} is applied: that is missing, or another one"
            if name == _NORM
            else f"{name} is missing"
        )
        yield _Relation(missing, 0, partial(_lacking, name))


def _applied(name: str, pair: Values) -> Tensor:
    return _FUNCTIONS[name](pair.right)


def _lacking(name: str, pair: Values) -> Tensor | None:
    """What is shown, where it is right once the function is applied."""
    return pair.shown if distance(_FUNCTIONS[name](pair.shown), pair.right) <= SLACK * pair.bound else None


def _of_axes(first: Values) -> Iterator[_Relation]:
    shape = list(first.right.shape)
    for one, other in combinations(range(len(shape)), 2):
        if min(shape[one], shape[other]) > 1:
            yield _Relation(f"axes {one} and {other} of {shape} are exchanged", 0, partial(_transposed, one, other))
    for axis, size in enumerate(shape):
        for shift in _SHIFTS:
            # The most of an axis is left of it.
            if size >= 4 * abs(shift):
                statement = f"it is shifted by {shift} along axis {axis} of {shape}, edges apart"
                yield _Relation(statement, 0, partial(_shifted, axis, shift))


def _transposed(one: int, other: int, pair: Values) -> Tensor:
    return pair.right.transpose(one, other).reshape(pair.right.shape)


def _shifted(axis: int, shift: int, pair: Values) -> Tensor:
    """The right value moved; what comes in at the edge is taken as it is shown."""
    moved = pair.right.roll(shift, axis)
    start = 0 if shift > 0 else pair.right.shape[axis] + shift
    edge = (slice(None),) * axis + (slice(start, start + abs(shift)),)
    moved[edge] = pair.shown[edge]
    return moved


def _of_reads(first: Values) -> Iterator[_Relation]:
    """A term that is missing, or added once more."""
    difference = first.shown - first.right
    for site, term in first.read.items():
        if not _spreads(term, first.right):
            continue
        weights = _fitted(difference, [term.expand_as(first.right)])
        if weights is None or not weights[0]:
            continue
        (times,) = weights
        whole = bool(round(times)) and abs(times - round(times)) < _WHOLE
        times = float(round(times)) if whole else times
        said = {-1.0: f"{site} is missing from it", 1.0: f"{site} is added once more"}
        statement = said.get(times, f"{_number(times)} times {site} is added")
        yield _Relation(statement, 0 if whole else 1, partial(_with_term, site, times))


def _with_term(site: str, times: float, pair: Values) -> Tensor | None:
    term = pair.read.get(site)
    return None if term is None or not _spreads(term, pair.right) else pair.right + times * term


def _spreads(term: Tensor, over: Tensor) -> bool:
    """Whether a term can be added to a value."""
    try:
        return bool(torch.broadcast_shapes(term.shape, over.shape) == over.shape)
    except RuntimeError:
        return False


def _of_numbers(first: Values) -> Iterator[_Relation]:
    """Scaled, moved, clamped: one or two numbers for all elements."""
    right, shown = first.right, first.shown
    for factor in _fitted(shown, [right]) or ():
        flipped = abs(factor + 1) < _WHOLE
        statement = "its sign is flipped" if flipped else f"the right value times {_number(factor)}"
        yield _Relation(statement, 0 if flipped else 1, partial(_linear, -1.0 if flipped else factor, 0.0))
    offset = float((shown - right).mean())
    yield _Relation(f"{_number(offset)} is added to every element", 1, partial(_linear, 1.0, offset))
    both = _fitted(shown, [right, torch.ones_like(right)])
    if both is not None:
        factor, offset = both
        statement = f"{_number(factor)} times the right value, plus {_number(offset)}"
        yield _Relation(statement, 2, partial(_linear, factor, offset))
    least, most = float(shown.min()), float(shown.max())
    if float(right.min()) < least or float(right.max()) > most:
        statement = f"it is clamped to {_number(least)} to {_number(most)}"
        yield _Relation(statement, 2, lambda pair: pair.right.clamp(least, most))


def _linear(factor: float, offset: float, pair: Values) -> Tensor:
    return factor * pair.right + offset


def _of_orders(first: Values) -> Iterator[_Relation]:
    """The slices of an axis in another order, perhaps with other signs: those that have a name, then any."""
    shape = list(first.right.shape)
    for axis, size in enumerate(shape):
        if not 1 < size <= _MOST_SLICES:
            continue
        where, still = f"axis {axis} of {shape}", torch.ones(size, dtype=first.right.dtype)
        for name, order in _named_orders(size).items():
            yield _Relation(f"{where} is in another order: {name}", 0, partial(_ordered, axis, order, still))
        order, signs = _nearest(first, axis)
        moved, flipped = order.tolist() != list(range(size)), (signs < 0).nonzero().flatten().tolist()
        if len(set(order.tolist())) == size and (moved or flipped) and first.right.numel() > size:
            said = f"signs are flipped at {_listed(flipped)}"
            statement = f"{where} is in another order: {_listed(order.tolist())}" if moved else f"{said} of {where}"
            statement += f"; {said}" if moved and flipped else ""
            yield _Relation(statement, 2, partial(_ordered, axis, order, signs))


def _of_cells(first: Values) -> Iterator[_Relation]:
    """Channels and the places of a cell of pixels in another order, [..., C, H, W]: a patch, or a pixel shuffle."""
    shape = list(first.right.shape)
    if len(shape) < 3 or min(shape[-2:]) < 2 * _CELL or shape[-3] < 2:
        return
    channels, rows, columns = shape[-3:]
    places = torch.arange(channels * _CELL**2)
    if rows % _CELL or columns % _CELL or len(places) > _MOST_SLICES:
        return
    where = f"channels and {_CELL} x {_CELL} cells of {shape}"
    names, sizes = ("C", "y", "x"), (channels, _CELL, _CELL)
    still = torch.ones(len(places), dtype=first.right.dtype)
    for axes in permutations(range(3)):
        if axes != (0, 1, 2):
            taken = places.view([sizes[axis] for axis in axes]).permute([axes.index(axis) for axis in range(3)])
            read = ", ".join(names[axis] for axis in axes)
            statement = f"{where} are read as ({read}) instead of ({', '.join(names)})"
            yield _Relation(statement, 0, partial(_of_celled, taken.flatten(), still))
    celled = replace(first, shown=_celled(first.shown), right=_celled(first.right))
    order, signs = _nearest(celled, -3)
    if len(set(order.tolist())) == len(order) and first.right.numel() > len(order):
        statement = f"{where} are in another order: {_listed(order.tolist())}"
        yield _Relation(statement, 2, partial(_of_celled, order, signs))


def _celled(x: Tensor) -> Tensor:
    return functional.pixel_unshuffle(x, _CELL)


def _of_celled(order: Tensor, signs: Tensor, pair: Values) -> Tensor | None:
    if pair.right.dim() < 3 or pair.right.shape[-3] * _CELL**2 != len(order):
        return None
    ordered = _celled(pair.right).index_select(-3, order) * signs.view(-1, 1, 1)
    return functional.pixel_shuffle(ordered, _CELL)


def _nearest(pair: Values, axis: int) -> tuple[Tensor, Tensor]:
    """Of every slice shown, the right one that it is most like, and whether with its sign."""
    shown, right = (x.movedim(axis, 0).reshape(x.shape[axis], -1) for x in (pair.shown, pair.right))
    products = shown @ right.T / right.norm(dim=1).clamp_min(torch.finfo(right.dtype).tiny)
    order = products.abs().argmax(1)
    return order, products.gather(1, order[:, None]).flatten().sign()


def _ordered(axis: int, order: Tensor, signs: Tensor, pair: Values) -> Tensor | None:
    if pair.right.shape[axis] != len(order):
        return None
    shape = [1] * pair.right.dim()
    shape[axis] = -1
    return pair.right.index_select(axis, order) * signs.view(shape)


def _named_orders(size: int) -> dict[str, Tensor]:
    """Orders that have a name: place i holds what should be at order[i]."""
    places = torch.arange(size)
    named = {"reversed": places.flip(0)}
    if size % 2 == 0:
        named["halves exchanged"] = places.view(2, -1).flip(0).flatten()
        named["halves interleaved"] = places.view(2, -1).T.flatten()
        named["pairs taken apart into halves"] = places.view(-1, 2).T.flatten()
        named["each two exchanged"] = places.view(-1, 2).flip(1).flatten()
    for rows in [rows for rows in range(3, size // 2) if size % rows == 0]:
        named[f"[{rows}, {size // rows}] read as [{size // rows}, {rows}]"] = places.view(rows, -1).T.flatten()
    # Of few places several names mean the same order, and some none at all: the first name of each.
    once = {tuple(order.tolist()): name for name, order in reversed(named.items())}
    return {name: order for name, order in named.items() if name in once.values() and not torch.equal(order, places)}


def _of_rows(first: Values) -> Iterator[_Relation]:
    """The same numbers added to, or multiplied with, an axis in every pass: a lost or doubled bias or weight."""
    shape = list(first.right.shape)
    for axis, size in enumerate(shape):
        others = [other for other in range(len(shape)) if other != axis]
        if size < 2 or first.right.numel() == size:
            continue
        where = f"axis {axis} of {shape}"
        added = (first.shown - first.right).mean(others, keepdim=True)
        statement = f"the same {size} numbers are added along {where} in every pass"
        yield _Relation(statement, size, partial(_spread_over, added, torch.add))
        squares = first.right.square().sum(others, keepdim=True)
        if bool((squares > 0).all()):
            factors = (first.shown * first.right).sum(others, keepdim=True) / squares
            statement = f"{where} is multiplied with the same {size} numbers in every pass"
            yield _Relation(statement, size, partial(_spread_over, factors, torch.mul))


def _of_weights(first: Values) -> Iterator[_Relation]:
    """The same difference in every pass; or one that a few known values make up, with other weights in every pass."""
    difference = first.shown - first.right
    statement = "the same values are added in every pass, whatever the right ones are"
    yield _Relation(statement, difference.numel(), partial(_moved_alike, first.key, first.right, difference))
    terms = [name for name, term in first.read.items() if term.numel() > 1 and _spreads(term, first.right)]
    for names in [_RIGHT, *[[name] for name in terms], *[[*_RIGHT, name] for name in terms], *combinations(terms, 2)]:
        added = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} added, with other weights in every pass"
        statement = _SCALED if names == _RIGHT else added
        yield _Relation(statement, 2 * len(names), partial(_made_up, names))


def _moved_alike(fitted_to: Key, right: Tensor, difference: Tensor, pair: Values) -> Tensor | None:
    """The right value and a difference; None where that says nothing, because the right value is the same again."""
    if pair.right.shape != right.shape:
        return None
    alike = pair.key != fitted_to and float((pair.right - right).norm()) <= float(difference.norm()) / _LEAST
    return None if alike else pair.right + difference


def _made_up(names: Sequence[str], pair: Values) -> Tensor | None:
    """The right value, and as much of known values as comes nearest to what is shown."""
    known = {**pair.read, _RIGHT[0]: pair.right}
    terms = [known.get(name) for name in names]
    if any(term is None or not _spreads(term, pair.right) for term in terms):
        return None
    spread = [term.expand_as(pair.right) for term in terms if term is not None]
    # Of few numbers, many are made up of any others.
    if pair.right.numel() < _NUMBERS_A_WEIGHT * len(spread):
        return None
    weights = _fitted(pair.shown - pair.right, spread)
    if weights is None:
        return None
    return pair.right + sum(
        (weight * term for weight, term in zip(weights, spread, strict=True)), start=torch.zeros(())
    )


def _spread_over(numbers: Tensor, by: Callable[[Tensor, Tensor], Tensor], pair: Values) -> Tensor | None:
    return by(pair.right, numbers) if _spreads(numbers, pair.right) else None


def _fitted(target: Tensor, terms: Sequence[Tensor]) -> list[float] | None:
    """The least-squares weights of `terms` in `target`; None where they depend on each other."""
    columns = torch.stack([term.flatten() for term in terms], dim=1)
    products = columns.T @ columns
    if not bool(torch.linalg.matrix_rank(products) == len(terms)):
        return None
    weights = torch.linalg.solve(products, columns.T @ target.flatten())
    return [float(weight) for weight in weights]


def _narrowed(pairs: Sequence[Values]) -> list[Held]:
    """That every value shown is a number of a dtype of fewer bits, and the right ones are not."""
    for name, dtype in _NARROW.items():
        if any(_is_of(pair.right, dtype) or not _is_of(pair.shown, dtype) for pair in pairs):
            continue
        before = max(pair.error for pair in pairs)
        after = max(distance(pair.shown, pair.right.to(dtype).to(pair.right.dtype)) for pair in pairs)
        rounded = after <= before / _LEAST
        statement = (
            f"it is rounded to {name}" if rounded else f"it is computed in {name}: all of its values are its numbers"
        )
        return [Held(statement, before, after if rounded else before, len(pairs))]
    return []


def _is_of(x: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(x.to(dtype).to(x.dtype), x)


def _number(value: float) -> str:
    """A number, with what it probably is."""
    text = f"{value:.6g}"
    if len(text.strip("-")) <= _PLAIN:
        return text
    for size in range(2, 4097):
        for power, said in ((-0.5, f"1/sqrt({size})"), (0.5, f"sqrt({size})"), (-1.0, f"1/{size}")):
            if abs(abs(value) / size**power - 1) < 2e-6:
                return f"{text} ({'-' if value < 0 else ''}{said})"
    return text


def _listed(places: Sequence[int], most: int = 8) -> str:
    """Numbers in words; those that follow each other as a range."""
    if len(places) > 2 and list(places) == list(range(places[0], places[-1] + 1)):
        return f"{places[0]} to {places[-1]}"
    shown = ", ".join(map(str, places[:most]))
    return shown if len(places) <= most else f"{shown}, ... ({len(places)})"
