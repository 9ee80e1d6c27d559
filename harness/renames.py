"""Keys that were probably renamed: missing under one name, extra under another."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from harness.inventory import Shape

# Below it, names of one shape have no more in common than `weight` and the block they lie in.
_SIMILAR = 0.7


@dataclass(frozen=True)
class Rename:
    """A key that the config asks for, and the one that was found in its place."""

    expected: str
    found: str

    @property
    def rule(self) -> tuple[str, str]:
        """What changes, from the first differing name of the path to the last, with block numbers left out of it."""
        expected, found = self.expected.split("."), self.found.split(".")
        while len(expected) > 1 and len(found) > 1 and expected[0] == found[0]:
            expected, found = expected[1:], found[1:]
        while len(expected) > 1 and len(found) > 1 and expected[-1] == found[-1]:
            expected, found = expected[:-1], found[:-1]
        return ".".join(expected), ".".join(found)


def proposed(missing: Mapping[str, Shape], extra: Mapping[str, Shape]) -> list[Rename]:
    """One-to-one pairs of equal shape, equal numbers in the path and similar name, the most similar first served.

    A number says which block or matrix a key belongs to: keys of two blocks are never one renamed key.
    """
    alike: dict[object, list[str]] = defaultdict(list)
    for key, shape in extra.items():
        alike[shape, _numbers(key)].append(key)
    candidates = [
        (*_likeness(key, found), key, found) for key, shape in missing.items() for found in alike[shape, _numbers(key)]
    ]
    pairs: list[Rename] = []
    taken: set[str] = set()
    for _, similarity, key, found in sorted(candidates, key=lambda pair: (-pair[0], -pair[1], *pair[2:])):
        if similarity >= _SIMILAR and key not in taken and found not in taken:
            taken |= {key, found}
            pairs.append(Rename(key, found))
    return sorted(pairs, key=lambda pair: pair.expected)


def _likeness(one: str, other: str) -> tuple[int, float]:
    """How many words two keys share (`q_proj` and `to_q` share one), and what part of their letters in order."""
    words, others = (set(re.split(r"[._]", key)) for key in (one, other))
    return len(words & others), SequenceMatcher(None, one, other, autojunk=False).ratio()


def rules(renames: Iterable[Rename]) -> list[tuple[str, str, int]]:
    """(expected, found, how many keys) of every rule that the renames follow, the most frequent first."""
    return [(*rule, count) for rule, count in Counter(rename.rule for rename in renames).most_common()]


def _numbers(key: str) -> tuple[str, ...]:
    return tuple(part for part in key.split(".") if part.isdigit())
