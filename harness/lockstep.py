"""Lockstep: two implementations in one process, pass by pass, compared by full tensors that never touch a disk."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, zip_longest

from torch import Tensor

from harness.adapter import Adapter
from harness.checkpoint import Checkpoint
from harness.compare_tensors import tensor_error
from harness.comparison import Comparison
from harness.dump import DumpWriter, expected_keys
from harness.judgement import Judgement
from harness.keys import Key
from harness.ledger import Ledger
from harness.metrics import FrameMetrics, frame_metrics
from harness.recorder import Observation, Recorder
from harness.scenario import Scenario
from harness.session import exact_arithmetic, passes

EVIDENCE = "tensors"


@dataclass(frozen=True)
class Side:
    """One of the two: its name, its adapter, and the dump that its observations go to as well, if any."""

    name: str
    adapter: Adapter
    writer: DumpWriter | None = None


@exact_arithmetic()
def lockstep(
    reference: Side,
    candidate: Side,
    checkpoint: Checkpoint,
    scenario: Scenario,
    judgement: Judgement,
) -> Comparison:
    """Run a session of both sides, each pass of the reference just before the candidate's, and compare every site."""
    ledger = Ledger(judgement)
    pairing = _Pairing(ledger, common=reference.adapter.sites().keys() & candidate.adapter.sites().keys())
    with ExitStack() as stack:
        sessions = []
        for side, pair in ((reference, pairing.reference), (candidate, pairing.candidate)):
            if side.writer is not None:
                stack.enter_context(side.writer)
            recorder = stack.enter_context(Recorder(side.adapter.sites(), _PairingSink(pair, side.writer)))
            sessions.append(passes(side.adapter, scenario, checkpoint.transformer, recorder))
        for _ in zip_longest(*sessions):
            pass
    pairing.close()
    expected = sum(1 for _ in expected_keys(checkpoint, scenario))
    return ledger.close(reference.name, candidate.name, evidence=EVIDENCE, expected=expected, frames=pairing.frames)


class _Pairing:
    """Brings the two sides' observations together, whichever comes first, and enters them into the ledger."""

    def __init__(self, ledger: Ledger, common: set[str]) -> None:
        """`common`: sites that both sides have. Tensors of other sites are not kept waiting for a partner."""
        self.frames: list[FrameMetrics] = []
        self._ledger = ledger
        self._common = common
        self._paired: set[str] = set()
        self._order = count()
        self._references: dict[Key, tuple[int, Tensor]] = {}
        self._candidates: dict[Key, tuple[int, Tensor]] = {}

    def reference(self, seen: Observation) -> None:
        order = next(self._order)
        if seen.key.site not in self._common:
            self._ledger.missing(order, seen.key, lacking="candidate", seen_elsewhere=False)
        elif waiting := self._candidates.pop(seen.key, None):
            self._enter(order, seen.key, waiting[1], seen.tensor)
        else:
            # An implementation may reuse the tensor for its next pass.
            self._references[seen.key] = (order, seen.tensor.detach().clone())

    def candidate(self, seen: Observation) -> None:
        if seen.key.site not in self._common:
            self._ledger.missing(next(self._order), seen.key, lacking="reference", seen_elsewhere=False)
        elif waiting := self._references.pop(seen.key, None):
            self._enter(waiting[0], seen.key, seen.tensor, waiting[1])
        else:
            self._candidates[seen.key] = (next(self._order), seen.tensor.detach().clone())

    def close(self) -> None:
        """Whatever still waits has no partner."""
        for key, (order, _) in self._references.items():
            self._ledger.missing(order, key, lacking="candidate", seen_elsewhere=key.site in self._paired)
        for key, (order, _) in self._candidates.items():
            self._ledger.missing(order, key, lacking="reference", seen_elsewhere=key.site in self._paired)

    def _enter(self, order: int, key: Key, actual: Tensor, expected: Tensor) -> None:
        self._paired.add(key.site)
        self._ledger.pair(order, key, tensor_error(actual, expected))
        if key.site == "frame" and actual.shape == expected.shape:
            self.frames.append(frame_metrics(key.frame, actual.cpu().numpy(), expected.cpu().numpy()))


class _PairingSink:
    """The sink of one side's recorder: what it sees is paired, and dumped where the side has a writer."""

    def __init__(self, pair: Callable[[Observation], None], writer: DumpWriter | None) -> None:
        self._pair = pair
        self._writer = writer

    def observe(self, seen: Observation) -> None:
        self._pair(seen)
        if self._writer is not None:
            self._writer.observe(seen)

    def end_pass(self) -> None:
        if self._writer is not None:
            self._writer.end_pass()
