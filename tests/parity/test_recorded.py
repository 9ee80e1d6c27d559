"""Dumps that carry their own bounds, and dumps in a candidate's place: right engines pass, mistakes are named.

The engine that is dumped knows no shadow: it is the JAX port. Its dumps are judged against one of the reference.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.observations import foreign
from tests.parity.test_exact import BLOCK, disturbed, session, wrong
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import ExactSink, Shadowed
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import MATHEMATICS, PRECISION, Comparison, Verdict
from waypoint_parity.harness.judge.diff import diff
from waypoint_parity.harness.judge.growth import LANES
from waypoint_parity.harness.judge.precision import PrecisionRun, fed_run
from waypoint_parity.harness.record.records import TENSORS_NAME, read_records
from waypoint_parity.harness.record.replay import Replay
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.keys import is_input
from waypoint_parity.harness.run.registry import find
from waypoint_parity.harness.run.session import counting, run
from waypoint_parity.harness.run.taps import recording

UNITS = 2


def dumped(folder: Path, of: Shadowed | Adapter) -> Path:
    """A dump of two frames on the golden checkpoint, with full tensors; of what is followed with exact values."""
    here = session("golden", "fp32", UNITS)
    adapter = of.adapter if isinstance(of, Shadowed) else of
    writer = DumpWriter(
        folder, describe_run("dumped", adapter, here.numerics, here.checkpoint, here.scenario), keep=["*"]
    )
    sink = ExactSink(writer, of.shadow) if isinstance(of, Shadowed) else writer
    counts = counting(here.scenario, here.checkpoint)
    with writer, recording(adapter.sites(), sink, counts=counts) as taps:
        if isinstance(of, Shadowed):
            with of.shadow:
                run(adapter, here.scenario, here.checkpoint, taps)
            writer.followed(of.shadow.lanes - 1, of.shadow.unfollowed)
        else:
            run(adapter, here.scenario, here.checkpoint, taps)
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the reference shows, with exact values."""
    followed = session("golden", "fp32", UNITS).shadowed("eager", lanes=LANES)
    return dumped(tmp_path_factory.mktemp("reference") / "dump", followed)


def followed_candidate(change: Callable[[Any], None] | None = None) -> Shadowed:
    return session("golden", "fp32", UNITS).shadowed("candidate", change, lanes=1)


def in_place(dump: Path) -> Adapter:
    here = session("golden", "fp32", UNITS)
    return find(f"dump:{dump}")(here.checkpoint, here.numerics)


def fed(dump: Path) -> PrecisionRun:
    """The local run with a dump in the candidate's place; its last unit is measured."""
    here = session("golden", "fp32", UNITS)
    return fed_run(disturbed("golden", "fp32"), in_place(dump), here.checkpoint, here.scenario, [UNITS - 1])


def told(found: Comparison) -> str:
    print(found.verdict, found.question, found.first, found.mathematics, found.precision)
    return "none" if found.first is None else found.first.site


class TestExactDumps:
    def test_every_observation_that_is_computed_has_its_exact_value(self, reference: Path) -> None:
        records = [each for each in read_records(reference) if not is_input(each.site) and each.dtype == "float32"]
        assert len(records) > 600
        # What is all zeros has no direction to be off in.
        assert [str(each.key) for each in records if each.exact is None and each.rms] == []

    def test_two_are_held_against_each_other_exactly(self, reference: Path, tmp_path: Path) -> None:
        found = diff(reference, dumped(tmp_path / "dump", followed_candidate()))
        assert told(found) == "none"
        assert found
        assert found.mathematics is not None
        assert found.mathematics.observations > 600
        assert (found.mathematics.worst or 0.0) < 1e-12
        assert found.precision is not None
        assert (found.precision.worst or 0.0) < 0.5

    def test_a_ten_millionth_is_other_mathematics(self, reference: Path, tmp_path: Path) -> None:
        site = f"{BLOCK}.1.mlp"

        def change(adapter: Any) -> None:
            adapter.sites()[site].module.register_forward_hook(lambda module, inputs, shown: shown * (1 + 1e-7))

        found = diff(reference, dumped(tmp_path / "dump", followed_candidate(change)))
        assert told(found) == site
        assert found.question == MATHEMATICS

    def test_a_rounding_to_bf16_is_other_precision(self, reference: Path, tmp_path: Path) -> None:
        site = f"{BLOCK}.1.mlp"

        def change(adapter: Any) -> None:
            hook = lambda module, inputs, shown: shown.bfloat16().float()  # noqa: E731 - of one line
            adapter.sites()[site].module.register_forward_hook(hook)

        found = diff(reference, dumped(tmp_path / "dump", followed_candidate(change)))
        assert told(found) == site
        assert found.question == PRECISION


@pytest.fixture
def port_dump(ports: Any, tmp_path: Path) -> Callable[[str], Path]:
    """A dump of the JAX port, or of one with a mistake."""

    def dump(port: str) -> Path:
        here = session("golden", "fp32", UNITS)
        return dumped(tmp_path / port, getattr(ports, port)(here.checkpoint, here.numerics))

    return dump


class TestAnEngineWithoutTorch:
    def test_its_dump_is_right(self, reference: Path, port_dump: Callable[[str], Path]) -> None:
        """Though its last resize is 1.6e-5 from the reference's, which is that far from exact."""
        found = diff(reference, port_dump("JaxPort"))
        assert told(found) == "none"
        assert found
        assert found.mathematics is None

    def test_its_dump_in_the_candidates_place_is_right(self, port_dump: Callable[[str], Path]) -> None:
        found = fed(port_dump("JaxPort"))
        assert wrong(found) == {}
        assert len(found.measured) > 300

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("mistake", "first", "ends"),
        [
            ("RotatesPairsApart", f"{BLOCK}.0.attn.q_rope", ("_rope",)),
            ("ResizesAsJax", "decoder.blocks.0", (*(f"s.{stage}" for stage in range(9)), "decoder.conv_out")),
        ],
    )
    def test_a_mistake_is_named_first_and_by_its_own_sites(
        self, mistake: str, first: str, ends: tuple[str, ...], reference: Path, port_dump: Callable[[str], Path]
    ) -> None:
        dump = port_dump(mistake)
        assert told(diff(reference, dump)) == first
        sites = wrong(fed(dump))
        assert next(iter(sites)) == first
        assert [site for site in sites if not site.endswith(ends)] == []

    def test_a_pass_that_it_lacks_is_missing(self, reference: Path, port_dump: Callable[[str], Path]) -> None:
        found = diff(reference, port_dump("Forgets"))
        assert found.first is not None
        assert (found.first.verdict, found.first.phase) == (Verdict.MISSING, "cache")


class TestReplay:
    def test_it_shows_what_was_recorded(self, tmp_path: Path) -> None:
        here = session("golden", "fp32", UNITS)
        candidate = CandidateAdapter(here.checkpoint, here.numerics)
        dump = dumped(tmp_path / "dump", candidate)
        again = in_place(dump)
        assert isinstance(again, Replay)
        assert here.digests(again) == here.digests(candidate)
        assert again.describe().items() >= candidate.describe().items()

    def test_another_checkpoint_or_scenario_is_refused(
        self, tmp_path: Path, tiny: Checkpoint, fp32_on_cpu: Numerics
    ) -> None:
        here = session("golden", "fp32", UNITS)
        dump = dumped(tmp_path / "dump", CandidateAdapter(here.checkpoint, here.numerics))
        with pytest.raises(UserError, match="of another checkpoint"):
            find(f"dump:{dump}")(tiny, fp32_on_cpu)
        noise = here.scenario.with_tensors(noise=here.scenario.tensors["noise"] + 1)
        with pytest.raises(UserError, match=r"of another scenario \(noise\)"):
            run(in_place(dump), noise, here.checkpoint)

    def test_a_dump_without_tensors_is_refused(self, tmp_path: Path) -> None:
        here = session("golden", "fp32", UNITS)
        dump = dumped(tmp_path / "dump", CandidateAdapter(here.checkpoint, here.numerics))
        (dump / TENSORS_NAME).unlink()
        with pytest.raises(UserError, match="keeps no tensors"):
            in_place(foreign(dump))
