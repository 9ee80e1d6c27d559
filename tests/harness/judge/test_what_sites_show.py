"""What a site shows is compared whole, live and through dumps, or refused with the site's name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import engines
from tests.harness.observations import JUDGEMENT
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.diff import diff
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario

REFUSED = [
    engines.Pair,
    engines.Dict,
    engines.Struct,
    engines.Nothing,
    engines.Text,
    engines.Objects,
    engines.Nested,
    engines.Meta,
    engines.Failing,
]
COMPARED = [
    engines.Number,
    engines.NumPy,
    engines.Reversed,
    engines.Quantised,
    engines.Sparse,
    engines.Complex,
    engines.Conjugate,
    engines.Negative,
    engines.Float8,
    engines.Half,
    engines.Int8,
    engines.Bool,
    engines.Scalar,
    engines.Empty,
    engines.Expanded,
    engines.ExpandedElement,
    engines.Transposed,
    engines.NaNs,
]
TWINS = [
    (engines.Complex, engines.ComplexTwin),
    (engines.Complex, engines.Conjugate),
    (engines.Number, engines.NumberTwin),
    (engines.NumPy, engines.NumPyTwin),
    (engines.NumPy, engines.Reversed),
    (engines.Sparse, engines.SparseTwin),
    (engines.Quantised, engines.QuantisedTwin),
    (engines.Float8, engines.Float8Twin),
    (engines.Expanded, engines.ExpandedTwin),
    (engines.NaNs, engines.NaNsTwin),
    (engines.NaNs, engines.Infinite),
    (engines.Empty, engines.Scalar),
]

Compare = Callable[[type, type], tuple[Comparison, Comparison]]


@pytest.fixture
def compare(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path: Path) -> Compare:
    """Two engines in lockstep, and the dumps that they wrote meanwhile."""

    def side(role: str, engine: type) -> Side:
        adapter = engine(tiny, fp32_on_cpu)
        manifest = describe_run(engine.__name__, adapter, fp32_on_cpu, tiny, tiny_scenario)
        return Side(engine.__name__, adapter, DumpWriter(tmp_path / role, manifest))

    def both(reference: type, candidate: type) -> tuple[Comparison, Comparison]:
        sides = side("reference", reference), side("candidate", candidate)
        live = lockstep(*sides, tiny, tiny_scenario, JUDGEMENT)
        return live, diff(tmp_path / "reference", tmp_path / "candidate", JUDGEMENT)

    return both


@pytest.mark.parametrize("engine", REFUSED)
def test_what_is_no_tensor_is_refused_with_its_site(compare: Compare, engine: type) -> None:
    with pytest.raises(UserError) as caught:
        compare(engine, engine)
    assert engines.PLACE in caught.value.what
    assert "layout=" in caught.value.do


@pytest.mark.sampled(6)
@pytest.mark.parametrize("engine", COMPARED)
def test_whatever_has_numbers_is_compared(compare: Compare, engine: type) -> None:
    live, offline = compare(engine, engine)
    assert live.verdict is offline.verdict is Verdict.IDENTICAL
    assert live.compared == live.expected == offline.compared


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("engine", "twin"), TWINS)
def test_nothing_of_it_is_dropped(compare: Compare, engine: type, twin: type) -> None:
    for found in compare(engine, twin):
        assert found.verdict is Verdict.DIVERGED
        assert found.first is not None
        assert found.first.site == engines.PLACE


def test_values_of_which_none_is_finite_prove_nothing(compare: Compare) -> None:
    for found in compare(engines.Infinite, engines.Infinite):
        assert found.verdict is Verdict.UNEXPLAINED
        assert engines.PLACE in found.contradictions[0]
