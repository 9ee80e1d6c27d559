"""Evidence: the values at sites that are wrong by themselves, of a few observations, and what relates them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from waypoint_parity.harness.explain.blame.findings import Finding
from waypoint_parity.harness.explain.blame.local import LocalValues
from waypoint_parity.harness.explain.blame.relations import Held, Values, relations
from waypoint_parity.harness.explain.blame.result import LocalError, Proof
from waypoint_parity.harness.run.keys import At, Key, block_of
from waypoint_parity.harness.run.sites import SiteTable, kind_of

# Of a finding, kinds of sites that are looked at, by the first of each; and of a site, observations, in all units.
MOST_SITES, MOST_OBSERVATIONS = 4, 6
# So much memory the values that are kept may take, as fp64.
MOST_BYTES = 1 << 29


class Evidence:
    """Keeps what a local run shows at the sites of findings, to be looked at when it is over."""

    def __init__(self, findings: Iterable[Finding], table: SiteTable) -> None:
        self._wanted: dict[Key, tuple[str, LocalError]] = {}
        for finding in findings:
            for error in _chosen(finding):
                self._wanted[error.key] = (finding.part, error)
        self._sites = {key.site for key in self._wanted}
        self._reads = {site: table.reads(site) for site in self._sites}
        self._read_by = {name for names in self._reads.values() for name in names}
        self._latest: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        # Right values of a site: the first one, the last one, and the last one of each step.
        self._first: dict[str, tuple[Key, Tensor]] = {}
        self._last: dict[str, tuple[Key, Tensor]] = {}
        self._of_step: dict[tuple[object, ...], tuple[Key, Tensor]] = {}
        # Right values in the pass at work, of sites beside those that are looked at; and what was kept of that pass.
        self._beside = {site: _siblings(site, table) for site in self._sites}
        self._shown_beside = {name for names in self._beside.values() for name in names}
        self._in_pass: dict[str, Tensor] = {}
        self._kept_in_pass: list[tuple[Values, dict[str, Tensor]]] = []
        self._at: At | None = None
        # By part and site.
        self.pairs: dict[tuple[str, str], list[Values]] = defaultdict(list)
        self._bytes = 0

    def look(self, seen: LocalValues) -> None:
        """Take one observation of the run."""
        key = seen.key
        if key.at != self._at:
            self._leave()
            self._at = key.at
        if key.site in self._shown_beside:
            self._in_pass[key.site] = seen.expected.detach().clone()
        if key.site in self._sites:
            if key in self._wanted and self._bytes < MOST_BYTES and seen.actual.shape == seen.expected.shape:
                self._keep(seen)
            right = key, seen.expected.detach().clone()
            self._first.setdefault(key.site, right)
            self._last[key.site] = self._of_step[key._replace(unit=0)] = right
        if key.site in self._read_by:
            if key.site in self._latest:
                self._before[key.site] = self._latest[key.site]
            self._latest[key.site] = seen.given.detach().clone()

    def proofs(self) -> dict[str, list[Proof]]:
        """What holds, by the part that is at fault."""
        self._leave()
        found: dict[str, list[Proof]] = defaultdict(list)
        for (part, site), pairs in self.pairs.items():
            found[part] += [_proof(site, held) for held in relations(pairs)]
        return {part: _once(proofs) for part, proofs in found.items()}

    def _keep(self, seen: LocalValues) -> None:
        part, error = self._wanted[seen.key]
        shown, right = seen.actual.double(), seen.expected.double()
        read = {name: value.double() for name, value in self._read(seen.key.site).items()}
        others = {name: value.double() for name, value in self._earlier(seen.key).items()}
        self._bytes += 8 * sum(x.numel() for x in (shown, right, *read.values(), *others.values()))
        kept = Values(seen.key, shown, right, error.bound, read, others)
        self._kept_in_pass.append((kept, others))
        self.pairs[part, seen.key.site].append(kept)

    def _leave(self) -> None:
        """The pass at work is over: what was kept of it gets the values of the sites beside it, also of later ones."""
        for kept, others in self._kept_in_pass:
            for name in self._beside[kept.key.site]:
                value = self._in_pass.get(name)
                if value is not None and value.shape == kept.right.shape and self._bytes < MOST_BYTES:
                    others[name] = value.double()
                    self._bytes += 8 * value.numel()
        self._kept_in_pass.clear()
        self._in_pass.clear()

    def _read(self, site: str) -> dict[str, Tensor]:
        """What the site reads, and what it read of the same sites before."""
        names = self._reads[site]
        now = {name: self._latest[name] for name in names if name in self._latest}
        return now | {f"{name} of the time before": self._before[name] for name in names if name in self._before}

    def _earlier(self, key: Key) -> dict[str, Tensor]:
        """Right values that the site had before, each once."""
        known: Mapping[str, tuple[Key, Tensor] | None] = {
            "the pass before": self._last.get(key.site),
            "the same step of the unit before": self._of_step.get(key._replace(unit=0)),
            "the session's first pass": self._first.get(key.site),
        }
        found: dict[Key, tuple[str, Tensor]] = {}
        for name, kept in known.items():
            if kept is not None:
                found.setdefault(kept[0], (name, kept[1]))
        return dict(found.values())


def _siblings(site: str, table: SiteTable) -> list[str]:
    """The other sites of the same part in the same block."""
    parts = {row.name: row.part for row in table.rows}
    block = block_of(site)
    alike = [name for name in parts if parts[name] == parts.get(site) and block_of(name) == block]
    return [name for name in alike if name != site and block is not None]


def _chosen(finding: Finding) -> list[LocalError]:
    """A few of a finding's errors that have a distance: of the first site of each kind, spread over the session."""
    by_site: dict[str, list[LocalError]] = defaultdict(list)
    firsts: dict[str, str] = {}
    for error in finding.errors:
        if error.rel_l2 is not None and firsts.setdefault(kind_of(error.site), error.site) == error.site:
            by_site[error.site].append(error)
    sites = list(by_site.values())[:MOST_SITES]
    return [error for errors in sites for error in _spread(errors)]


def _spread(errors: Sequence[LocalError]) -> list[LocalError]:
    """The first, the last, and some between them."""
    last = len(errors) - 1
    places = {round(place * last / (MOST_OBSERVATIONS - 1)) for place in range(MOST_OBSERVATIONS)}
    return [errors[place] for place in sorted(places)]


def _proof(site: str, held: Held) -> Proof:
    by: Literal["relation", "extent"] = "extent" if held.extent else "relation"
    return Proof(site=site, by=by, statement=held.statement, before=held.before, after=held.after, observations=held.of)


def _once(proofs: Sequence[Proof]) -> list[Proof]:
    """Each statement with the first site that it holds at."""
    found: dict[str, Proof] = {}
    for proof in proofs:
        found.setdefault(proof.statement, proof)
    return list(found.values())
