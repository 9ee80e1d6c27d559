"""Effects: which factors decide whether a cell fails, and the smallest combinations of levels that account for it.

A combination is a box: a set of levels for some of the factors, such that every cell that was run inside it fails. One
box that holds all failures and no other cell is the whole answer; else boxes of single levels, fewest factors first,
are taken until every failure is in one (a greedy cover by prime implicants, as in Quine and McCluskey's method).
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from statistics import median

from waypoint_parity.harness.judge.comparison import INFINITE, Comparison
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.variant import AS_RECORDED
from waypoint_parity.harness.sweep.summary import CellRun, Combination, Effects, LevelEffect

Levels = Mapping[str, str]
Box = dict[str, list[str]]


def effects(
    cells: Mapping[str, CellRun], comparisons: Mapping[str, Comparison], failing: Collection[str], family: Family
) -> Effects:
    """What `cells` tell, of which those named by `failing` do not hold."""
    runs = {name: cell.factors for name, cell in cells.items()}
    factors = _levels(runs.values())
    boxes = _boxes(runs, set(failing), factors)
    return Effects(
        factors=factors,
        levels=[
            _level_effect(factor, level, runs, comparisons, failing)
            for factor, levels in factors.items()
            if len(levels) > 1
            for level in levels
        ],
        combinations=[Combination(levels=box, cells=_inside(box, runs)) for box in boxes],
        sentences=_sentences(boxes, factors, runs, failing, family),
    )


def _levels(runs: Collection[Levels]) -> Box:
    """The levels of every factor as they occur, the factors with several first."""
    names = dict.fromkeys(name for run in runs for name in run)
    found = {name: list(dict.fromkeys(run[name] for run in runs if name in run)) for name in names}
    return dict(sorted(found.items(), key=lambda item: len(item[1]) < 2))


def _level_effect(
    factor: str, level: str, runs: Mapping[str, Levels], comparisons: Mapping[str, Comparison], failing: Collection[str]
) -> LevelEffect:
    names = [name for name, levels in runs.items() if levels[factor] == level]
    excesses = [excess for name in names if (excess := largest_excess(comparisons[name])) is not None]
    return LevelEffect(
        factor=factor,
        level=level,
        cells=len(names),
        failing=sum(name in failing for name in names),
        excess=median(excesses) if excesses else None,
    )


def largest_excess(comparison: Comparison) -> float | None:
    """The largest ratio of an error to its bound at any site; None where no site has both."""
    return max((rung.excess for rung in comparison.sites if rung.excess < INFINITE), default=None)


def _boxes(runs: Mapping[str, Levels], failing: set[str], factors: Box) -> list[Box]:
    if not failing:
        return []
    around = _around([runs[name] for name in failing], factors)
    if set(_inside(around, runs)) == failing:
        return [_described(around, factors)]
    left, chosen = set(failing), []
    candidates = _implicants(runs, failing, factors)
    while left:
        best = max(candidates, key=lambda box: (len(left.intersection(_inside(box, runs))), -len(box)))
        chosen.append(best)
        left -= set(_inside(best, runs))
    return _merged(chosen, factors)


def _around(runs: Sequence[Levels], factors: Box) -> Box:
    """The smallest box around cells."""
    return {
        name: [level for level in levels if any(run[name] == level for run in runs)] for name, levels in factors.items()
    }


def _described(box: Box, factors: Box) -> Box:
    """A box without the factors of which it has every level."""
    return {name: levels for name, levels in box.items() if len(levels) < len(factors[name])}


def _inside(box: Box, runs: Mapping[str, Levels]) -> list[str]:
    return [name for name, levels in runs.items() if all(levels[factor] in box[factor] for factor in box)]


def _implicants(runs: Mapping[str, Levels], failing: set[str], factors: Box) -> list[Box]:
    """Boxes of single levels in which every cell fails, none of them inside another, fewest factors first.

    Those of all factors are the failing cells themselves, so that every failure is in one.
    """
    varying = [name for name, levels in factors.items() if len(levels) > 1]
    found: list[Box] = []
    for size in range(1, len(varying) + 1):
        for names in combinations(varying, size):
            for levels in product(*(factors[name] for name in names)):
                box = {name: [level] for name, level in zip(names, levels, strict=True)}
                inside = _inside(box, runs)
                if inside and failing.issuperset(inside) and not any(_holds(larger, box) for larger in found):
                    found.append(box)
    return found


def _holds(larger: Box, smaller: Box) -> bool:
    return all(name in smaller and set(smaller[name]) <= set(levels) for name, levels in larger.items())


def _merged(boxes: list[Box], factors: Box) -> list[Box]:
    """Boxes that differ in the levels of one factor only, as one."""
    merged: list[Box] = []
    for box in boxes:
        for index, known in enumerate(merged):
            differing = [name for name in box if box[name] != known.get(name)]
            if box.keys() == known.keys() and len(differing) == 1:
                (name,) = differing
                both = [level for level in factors[name] if level in known[name] + box[name]]
                merged[index] = known | {name: both}
                break
        else:
            merged.append(box)
    return merged


def _sentences(
    boxes: list[Box], factors: Box, runs: Mapping[str, Levels], failing: Collection[str], family: Family
) -> list[str]:
    """What the boxes say, in words."""
    count = f"{len(failing)} of {len(runs)} cells fail"
    if not failing:
        return [f"no cell of {len(runs)} fails"]
    if boxes == [{}]:
        return [f"{count}: at {_every(factors, {})}" if _varying(factors) else count]
    if len(boxes) == 1:
        return [f"{count}: only {_conditions(boxes[0], factors, family)}, at {_every(factors, boxes[0])}"]
    return [f"{count}: {'; or '.join(_conditions(box, factors, family) for box in boxes)}"]


def _conditions(box: Box, factors: Box, family: Family) -> str:
    return ", ".join(_condition(name, levels, factors[name], family) for name, levels in box.items())


def _condition(factor: str, levels: Sequence[str], tested: Sequence[str], family: Family) -> str:
    known = family.factors.get(factor)
    said = None if known is None else known.said(levels, [level for level in tested if level != AS_RECORDED])
    return said or f"with {factor} {' or '.join(levels)}"


def _varying(factors: Box) -> list[str]:
    return [name for name, levels in factors.items() if len(levels) > 1]


def _every(factors: Box, box: Box) -> str:
    others = [name for name in _varying(factors) if name not in box]
    if not others:
        return "the one setting of everything else"
    *first, last = others
    return f"every {', '.join(first)} and {last}" if first else f"every {last}"
