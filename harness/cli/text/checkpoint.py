"""What a checkpoint holds, as lines for a terminal."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.checkpoint.configs import SideBySide
from waypoint_parity.harness.checkpoint.inspection import ComponentReport, Inspection, StoredTensor, rules
from waypoint_parity.harness.checkpoint.loading import Loading
from waypoint_parity.harness.errors import listed
from waypoint_parity.harness.run.sites import SiteRow


def site_lines(rows: Sequence[SiteRow]) -> list[str]:
    """A line for each site: its name, in which phases it shows, what it is, and how often."""
    widths = [max(len(name) for name in column) for column in zip(*map(_site_words, rows), strict=True)]
    return [
        "  ".join(word.ljust(width) for word, width in zip(_site_words(row), widths, strict=True)).rstrip()
        for row in rows
    ]


def _site_words(row: SiteRow) -> tuple[str, str, str, str]:
    how = [
        "of every branch" if row.branched else "",
        "in the first step alone" if row.once else "",
        "may be left out" if row.optional else "",
    ]
    return row.name, ", ".join(row.phases), row.kind.value, ", ".join(filter(None, how))


def checkpoint_lines(checkpoint: Checkpoint, inspection: Inspection, *, all_keys: bool = False) -> list[str]:
    """Identity, geometry, inventory and faults of a checkpoint, the verdict last.

    The inventory has a line per module; `all_keys` lists every tensor by itself.
    """
    lines = [
        f"checkpoint   {inspection.origin}",
        f"layout       {_layout(checkpoint)}",
        f"digest       {inspection.digest}",
        *checkpoint.family.geometry_lines(checkpoint.geometry),
        *inspection.told,
    ]
    for part in inspection.parts:
        lines += [
            "",
            _total(part),
            *_notes(part),
            *(_entry_lines(part.tensors) if all_keys else _module_lines(part.tensors)),
        ]
    configs = [*inspection.compared, *(inspection.loading.configs if inspection.loading else [])]
    for side_by_side in configs:
        lines += ["", *_config_lines(side_by_side)]
    if inspection.loading and inspection.loading.scratch:
        scratch = ", ".join(str(one) for one in inspection.loading.scratch)
        lines += ["", f"scratch memory of {inspection.loading.implementation}, written by each session: {scratch}"]
    faults = list(_faults(inspection))
    verdict = "NOT SOUND" if faults else "sound: keys, shapes and configs fit, every value is finite"
    return [*lines, "", *faults, verdict]


def _total(part: ComponentReport) -> str:
    return f"{part.name:12} {_sizes(part.tensors)}"


def _layout(checkpoint: Checkpoint) -> str:
    return (checkpoint.folder and checkpoint.family.layout_of(checkpoint.folder)) or "none: it is in memory"


def _notes(part: ComponentReport) -> Iterator[str]:
    """What is no fault, and worth knowing: which files are read, what they leave out, what is zero."""
    beside = f"; not read: {listed(part.unread)}" if part.unread else ""
    yield f"  read from {listed(part.files)}{beside}"
    if part.ties:
        yield f"  {len(part.ties)} keys left out, which share the tensor of another: {listed(list(part.ties))}"
    if part.zero:
        yield f"  {len(part.zero)} tensors are all zero: {listed(part.zero)}"


def _sizes(entries: Sequence[StoredTensor]) -> str:
    parameters, size = sum(entry.parameters for entry in entries), sum(entry.bytes for entry in entries)
    dtypes = "/".join(sorted({entry.dtype for entry in entries}))
    return f"{len(entries):5} tensors {parameters:>16,} parameters {size:>16,} bytes  {dtypes}"


def _module_lines(entries: Sequence[StoredTensor]) -> list[str]:
    """One line per module, those of all blocks together."""
    ordered = sorted(entries, key=lambda entry: _module(entry.key))
    groups = [(module, list(group)) for module, group in groupby(ordered, key=lambda entry: _module(entry.key))]
    return [f"  {module:38} {_sizes(group)}" for module, group in groups]


def _module(key: str) -> str:
    """Where a key belongs: its module down to the one below a number, such as `blocks.*.mlp`; else the outermost."""
    path = ["*" if name.isdigit() else name for name in key.split(".")[:-1]]
    depth = path.index("*") + 2 if "*" in path else 1
    return ".".join(path[:depth]) or key


def _entry_lines(entries: Iterable[StoredTensor]) -> list[str]:
    return [
        f"  {entry.key:72} {list(entry.shape)!s:20} {entry.dtype:5} {entry.parameters:>12,} {entry.bytes:>14,}"
        for entry in entries
    ]


def _config_lines(compared: SideBySide) -> list[str]:
    differences, settings = compared.differences, compared.settings
    head = f"{compared.part} config beside that of {compared.other}: {len(differences)} of {len(settings)} keys differ"
    differing = [f"  {setting.key:28} {_short(setting.here)}  |  {_short(setting.there)}" for setting in differences]
    equal = ", ".join(f"{setting.key} {_short(setting.here)}" for setting in settings if not setting.differs)
    return [head, *differing, *wrap(equal, 118, initial_indent="  equal: ", subsequent_indent="    ")]


def _short(value: object) -> str:
    """A value without spaces, for a line that wraps at them."""
    return str(value).replace(", ", ",")


def _faults(inspection: Inspection) -> Iterator[str]:
    """One line per kind of fault, with the names that it concerns."""
    for part in inspection.parts:
        kinds = {"missing": part.missing, "extra": part.extra, "misshapen": part.misshapen}
        for kind, keys in (kinds | {"not finite": part.not_finite}).items():
            if keys:
                yield f"{part.name}: {len(keys)} {kind}: {listed(keys)}"
        if part.codes:
            yield f"{part.name}: not stored as plain numbers: {part.codes}"
        for expected, found, count in rules(part.renamed):
            example = next(rename for rename in part.renamed if rename.rule == (expected, found))
            yield f"{part.name}: {count} probably renamed, {expected} -> {found}: {example.expected} -> {example.found}"
    if inspection.untied:
        keys = inspection.untied
        yield f"untied: {len(keys)} copies differ from those of the other blocks: {listed(keys)}"
    if inspection.loading is not None:
        yield from _loading_faults(inspection.loading)


def _loading_faults(loading: Loading) -> Iterator[str]:
    if loading.failure is not None:
        yield f"{loading.implementation}: cannot load it: {loading.failure}"
    for unfilled in loading.unfilled:
        yield f"{loading.implementation}: left uninitialised: {unfilled}"
