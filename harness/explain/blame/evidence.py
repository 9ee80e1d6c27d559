"""Evidence: the values at sites that are wrong by themselves, of a few observations, and what relates them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from waypoint_parity.harness.explain.blame.findings import Finding
from waypoint_parity.harness.explain.blame.local import LocalValues
from waypoint_parity.harness.explain.blame.relations import Held, Values, relations
from waypoint_parity.harness.explain.blame.result import LocalError, Proof
from waypoint_parity.harness.run.keys import Key
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
        # Right values of a site: the first one, the last one, and the last one of each step.
        self._first: dict[str, tuple[Key, Tensor]] = {}
        self._last: dict[str, tuple[Key, Tensor]] = {}
        self._of_step: dict[tuple[object, ...], tuple[Key, Tensor]] = {}
        # By part and site.
        self.pairs: dict[tuple[str, str], list[Values]] = defaultdict(list)
        self._bytes = 0

    def look(self, seen: LocalValues) -> None:
        """Take one observation of the run."""
        key = seen.key
        if key.site in self._sites:
            if key in self._wanted and self._bytes < MOST_BYTES and seen.actual.shape == seen.expected.shape:
                self._keep(seen)
            right = key, seen.expected.detach().clone()
            self._first.setdefault(key.site, right)
            self._last[key.site] = self._of_step[key._replace(unit=0)] = right
        if key.site in self._read_by:
            self._latest[key.site] = seen.given.detach().clone()

    def proofs(self) -> dict[str, list[Proof]]:
        """What holds, by the part that is at fault."""
        found: dict[str, list[Proof]] = defaultdict(list)
        for (part, site), pairs in self.pairs.items():
            found[part] += [_proof(site, held) for held in relations(pairs)]
        return {part: _once(proofs) for part, proofs in found.items()}

    def _keep(self, seen: LocalValues) -> None:
        part, error = self._wanted[seen.key]
        read = {name: self._latest[name].double() for name in self._reads[seen.key.site] if name in self._latest}
        earlier = {name: value.double() for name, value in self._earlier(seen.key).items()}
        shown, right = seen.actual.double(), seen.expected.double()
        self._bytes += 8 * sum(x.numel() for x in (shown, right, *read.values(), *earlier.values()))
        self.pairs[part, seen.key.site].append(Values(seen.key, shown, right, error.bound, read, earlier))

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
