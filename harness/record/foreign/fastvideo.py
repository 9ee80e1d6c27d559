"""FastVideo's activation trace: one JSON record a line, statistics alone, opened to be appended to."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.foreign.found import Asked, Found, Notes
from waypoint_parity.harness.record.foreign.told import SUMMED, Told, number, sizes, told

NAME = "FastVideo activation trace"
_STATISTICS = ("abs_mean", "sum", "min", "max", "mean", "std")


def recognises(source: Path, head: bytes) -> bool:
    """Whether a file is one, by its first bytes."""
    return head.lstrip().startswith(b"{") and all(word in head for word in (b'"module":', b'"tensor":', b'"step":'))


def read(source: Path, asked: Asked, notes: Notes) -> Iterator[Found]:
    """The records, in the order of the lines.

    Raises UserError for a line that is none, and for a file that may hold several runs or processes, unless it was said
    what repeats are.
    """
    scan = _Scan(source)
    first, stop = scan.part(asked)
    notes.say("FastVideo's trace tells neither frames nor branches: a repeat is a call, unless --units-from says more.")
    if scan.without_step:
        notes.say("The trace has no steps: its pipeline does not count them.")
    failed = 0
    for index, record in _records(source):
        if first <= index < stop:
            failed += sum(isinstance(record.get(name), str) for name in _STATISTICS)
            yield _found(record, notes)
    if failed:
        notes.say(f"{failed} statistics are missing: the tool that wrote the trace failed to compute them.")


def _found(record: dict[str, Any], notes: Notes) -> Found:
    module, tensor = record["module"] or "output", record["tensor"]
    inner = tensor[len("out") :] if tensor.startswith(("out[", "out.")) or tensor == "out" else f".{tensor}"
    return Found(name=f"{module}{inner}", value=_told(record, notes), step=record["step"])


def _told(record: dict[str, Any], notes: Notes) -> Told:
    shape, dtype = sizes(record.get("shape")), record.get("dtype")
    if shape is None:
        notes.say("The trace has no shapes: sums and standard deviations cannot be used.")
    return told(
        shape=shape,
        dtype=dtype if isinstance(dtype, str) else None,
        resolution=SUMMED,
        mean=number(record.get("mean")),
        total=number(record.get("sum")),
        sample_std=number(record.get("std")),
        low=number(record.get("min")),
        high=number(record.get("max")),
        absmean=number(record.get("abs_mean")),
    )


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, record) of every line."""
    with path.open("rb") as file:
        for index, line in enumerate(file):
            yield index, _record(path, index, line)


def _record(path: Path, index: int, line: bytes) -> dict[str, Any]:
    try:
        # The writer's JSON has NaN and Infinity, which Python's reader takes.
        record = json.loads(line)
        problem = None if _is_record(record) else "no module, tensor and step"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem is None:
        return dict(record)
    shown = line[:60].decode(errors="replace")
    raise UserError(
        f"{path}, line {index + 1}: is no record of an activation trace",
        found=f"{shown} ({problem})",
        expected="one whole JSON object with module, tensor and step",
        do="remove half a line at the end, which a killed run leaves; where two processes wrote into one file, trace "
        "again with <pid> in its path",
    )


def _is_record(record: object) -> bool:
    if not isinstance(record, dict):
        return False
    step = record.get("step", "")
    named = isinstance(record.get("module"), str) and isinstance(record.get("tensor"), str)
    return named and (step is None or (isinstance(step, int) and not isinstance(step, bool)))


class _Scan:
    """What the lines of a file tell of where a run ends: their keys and digests, in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        numbers: dict[tuple[str, str, int | None], int] = {}
        self.keys: list[int] = []
        self.steps: list[int | None] = []
        self.digests: list[int] = []
        for _, record in _records(path):
            key = (record["module"], record["tensor"], record["step"])
            self.keys.append(numbers.setdefault(key, len(numbers)))
            self.steps.append(record["step"])
            self.digests.append(xxhash.xxh3_64_intdigest(repr(sorted(record.items())).encode()))
        self.without_step = all(step is None for step in self.steps)

    def part(self, asked: Asked) -> tuple[int, int]:
        """The lines [first, stop) to read. Raises UserError where it has to be asked what repeats are."""
        begins = [0, *self._again()]
        if asked.run is not None:
            if asked.run >= len(begins):
                raise UserError(
                    f"{self._path}: has no run {asked.run}",
                    found=f"{len(begins)} that begin alike",
                    expected="a run that is in the file, counted from 0",
                    do="correct --run",
                )
            return begins[asked.run], [*begins[1:], len(self.keys)][asked.run]
        if not asked.repeats_told:
            if len(begins) > 1:
                raise self._ask(begins[1], f"the same values as from line 1 on, {len(begins)} times in all")
            if (line := self._interleaved()) is not None:
                raise self._ask(line, "a record comes again before its pass is over")
        return 0, len(self.keys)

    def _again(self) -> list[int]:
        """Where the file begins again: with its first record, the same order behind it, and an earlier step or no end.

        A file that only repeats its keys, with other values, may hold frames or branches: those are calls.
        """
        found: list[int] = []
        length: int | None = None
        for index in range(1, len(self.keys)):
            if self.digests[index] != self.digests[0]:
                continue
            length = length or index
            rest = min(length, len(self.keys) - index)
            before, now = self.steps[index - 1], self.steps[index]
            falls_back = before is not None and now is not None and now < before
            alike = self.keys[index : index + rest] == self.keys[:rest]
            same = self.digests[index : index + rest] == self.digests[:rest]
            if alike and (falls_back or same):
                found.append(index)
        return found

    def _interleaved(self) -> int | None:
        """The first line that two passes in turn would not give: every key of its step is there several times.

        So do two processes that write into one file. One whose model calls a module twice has others that it calls
        once.
        """
        lines = defaultdict[int | None, list[int]](list)
        for index, step in enumerate(self.steps):
            lines[step].append(index)
        for of_step in lines.values():
            times = min(Counter(self.keys[index] for index in of_step).values())
            length = len(of_step) // times
            keys = [self.keys[index] for index in of_step]
            if times > 1 and keys != keys[:length] * times:
                return next(index for place, index in enumerate(of_step) if keys[place] in keys[:place])
        return None

    def _ask(self, index: int, found: str) -> UserError:
        return UserError(
            f"{self._path}, line {index + 1}: may be of another run or process",
            found=found,
            expected="one run of one process in a file, which FastVideo appends to",
            do="name a run with --run 0, or say what repeats are: --units-from call (frames) or --units-from frame "
            "(calls); values of two processes cannot be told apart",
        )
