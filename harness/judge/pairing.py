"""Pairing: brings what two running implementations show together, site by site, and enters it into the ledger."""

from collections.abc import Collection
from itertools import count
from typing import Any

from torch import Tensor

from waypoint_parity.harness.compare.pictures import PictureMetrics, picture_metrics
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.judge.ledger import Ledger
from waypoint_parity.harness.judge.truth import Truth
from waypoint_parity.harness.record.writer import pictures_shown
from waypoint_parity.harness.run.digest import fast_digest
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.sites import Kind
from waypoint_parity.harness.run.taps import Observation


class Pairing:
    """Takes the observations of both sides, whichever comes first; `close` when both are done."""

    def __init__(
        self,
        judgement: Judgement,
        common: Collection[str],
        family: Family,
        geometry: Any,
        *,
        truth: Truth,
        teacher_forced: bool = False,
    ) -> None:
        """`common`: sites that both sides have. Tensors of other sites are not kept waiting for a partner.

        `truth` is told of every pair.
        """
        self.ledger = Ledger(judgement, family)
        self.pictures: list[PictureMetrics] = []
        self._family = family
        self._caches = family.caches.describe(geometry)
        self.slots = family.caches.comparison(self._caches, teacher_forced=teacher_forced)
        self._truth = truth
        self._common = common
        self._paired: set[str] = set()
        self._order = count()
        self._references: dict[Key, tuple[int, Tensor]] = {}
        self._candidates: dict[Key, tuple[int, Tensor]] = {}

    def reference(self, seen: Observation) -> None:
        """Take what the reference shows."""
        order = next(self._order)
        if (sign := self._sign(seen)) is not None:
            self.slots.reference(order, sign)
        if seen.key.site not in self._common:
            self.ledger.missing(order, seen.key, lacking="candidate", seen_elsewhere=False)
        elif waiting := self._candidates.pop(seen.key, None):
            self._enter(order, seen.key, waiting[1], seen.tensor)
        else:
            # An implementation may reuse the tensor for its next pass.
            self._references[seen.key] = (order, seen.tensor.detach().clone())

    def candidate(self, seen: Observation) -> None:
        """Take what the candidate shows."""
        if (sign := self._sign(seen)) is not None:
            self.slots.candidate(sign)
        if seen.key.site not in self._common:
            self.ledger.missing(next(self._order), seen.key, lacking="reference", seen_elsewhere=False)
        elif waiting := self._references.pop(seen.key, None):
            self._enter(waiting[0], seen.key, seen.tensor, waiting[1])
        else:
            self._candidates[seen.key] = (next(self._order), seen.tensor.detach().clone())

    def close(self) -> None:
        """Whatever still waits has no partner."""
        for key, (order, _) in self._references.items():
            self.ledger.missing(order, key, lacking="candidate", seen_elsewhere=key.site in self._paired)
        for key, (order, _) in self._candidates.items():
            self.ledger.missing(order, key, lacking="reference", seen_elsewhere=key.site in self._paired)

    def _enter(self, order: int, key: Key, actual: Tensor, expected: Tensor) -> None:
        self._paired.add(key.site)
        self.ledger.pair(order, key, tensor_error(actual, expected))
        self._truth.compare(key, actual, expected)
        if self._family.sites.kind(key.site, key.phase) is Kind.PICTURE and actual.shape == expected.shape:
            self._compare_pictures(key, actual, expected)

    def _compare_pictures(self, key: Key, actual: Tensor, expected: Tensor) -> None:
        shown, wanted = pictures_shown(key, actual), pictures_shown(key, expected)
        self.pictures += [picture_metrics(at, shown[at], wanted[at]) for at in wanted]

    def _sign(self, seen: Observation) -> Any:
        """What an observation tells of the caches, if anything; of an accelerator's, nothing."""
        tensor, caches = seen.tensor.detach(), self._family.caches
        if tensor.device.type != "cpu" or not caches.tells(seen.key.site):
            return None
        marks = caches.marks(seen.key.site, tensor, self._caches)
        digest = None if marks is not None else fast_digest(tensor)
        return caches.sign(seen.key, str(tensor.dtype), digest, marks)
