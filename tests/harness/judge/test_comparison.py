import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import implementations
from tests.harness.observations import FAMILY, JUDGEMENT, SAME, key
from tests.harness.sweeps import tiny_cells, tiny_run
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.judge.comparison import (
    INFINITE,
    MATHEMATICS,
    PRECISION,
    Comparison,
    LatentError,
    Mathematics,
    Precision,
    Verdict,
    rounded_up,
    where_in,
)
from waypoint_parity.harness.judge.comparison_text import comparison_lines
from waypoint_parity.harness.judge.table import VerdictTable, incomparable
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.sweep.parity import run_parity


def judged(*errors: Error) -> Comparison:
    """Of blocks with these errors, one after the other."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    for order, error in enumerate(errors):
        table.pair(order, key(f"transformer.blocks.{order}"), error)
    return table.close("eager", "candidate", evidence="tensors", expected=len(errors), pictures=[])


def off(*, rel_l2: float = 1e-3, exact: float | None = None, local: float | None = None) -> Error:
    return Error(identical=False, rel_l2=rel_l2, exact=exact, local=local)


def mathematics(worst: float | None) -> Mathematics:
    return Mathematics(observations=3, worst=worst, bound=1e-10)


def precision(worst: float | None, *, observations: int = 3, gains: int = 0) -> Precision:
    return Precision(
        units=[0], observations=observations, lanes=4, worst=worst, at="", reference=0.5, gains=["a gain"] * gains
    )


def test_only_identity_and_noise_pass() -> None:
    assert [verdict for verdict in Verdict if verdict.passes] == [Verdict.IDENTICAL, Verdict.WITHIN_NOISE]


@pytest.mark.parametrize(
    ("errors", "horizon"), [([], None), ([1e-6, 1e-5], None), ([1e-6, 2e-5, 1e-6], 1), ([None], 0)], ids=str
)
def test_the_horizon_is_the_first_unit_whose_error_exceeds_noise(
    errors: list[float | None], horizon: int | None
) -> None:
    comparison = incomparable("eager", "candidate", "", bounds=JUDGEMENT.bounds, evidence="tensors")
    growth = [LatentError(unit=unit, rel_l2=error, tolerance=1e-5) for unit, error in enumerate(errors)]
    comparison = msgspec.structs.replace(comparison, growth=growth)
    assert comparison.horizon == horizon
    assert msgspec.structs.replace(comparison, verdict=Verdict.WITHIN_NOISE).horizon is None


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_a_tolerance_that_is_printed_holds_when_it_is_used(value: float) -> None:
    printed = float(rounded_up(value))
    assert value <= printed <= value * 1.011


@pytest.mark.parametrize(("value", "text"), [(2e-4, "2.00e-04"), (2.001e-4, "2.01e-04"), (9.999e-4, "1.00e-03")])
def test_a_tolerance_is_printed_with_three_digits(value: float, text: str) -> None:
    assert rounded_up(value) == text


def test_where_it_was_is_told_in_words() -> None:
    assert where_in(Key(3, "denoise", 1, "latent")) == "unit 3, denoise step 1"
    assert where_in(Key(3, "denoise", 1, "velocity", "uncond", 2)) == "unit 3, denoise step 1, uncond"


@pytest.mark.parametrize(
    ("exact", "local", "says"),
    [
        (None, None, None),
        (9e-11, 1.0, None),
        (1e-3, 24.0, "other mathematics, exact values 1.0e-03 apart, bound 1e-10; as computed 1.00e-03"),
        (math.inf, None, "other mathematics, exact values infinitely far apart, bound 1e-10; as computed 1.00e-03"),
        (9e-11, 24.0, "less precise than rounding explains, 24 times its bound; as computed 1.00e-03"),
        (None, math.inf, "not what the reference makes of the candidate's own values; as computed 1.00e-03"),
    ],
)
def test_what_is_wrong_by_itself_is_told_in_words_also_after_it_was_written(
    exact: float | None, local: float | None, says: str | None
) -> None:
    comparison = msgspec.json.decode(to_json(judged(off(exact=exact, local=local))), type=Comparison)
    (rung,) = comparison.sites
    assert rung.by_itself == says
    assert [failure.by_itself for failure in comparison.failures] == ([] if comparison else [says])


@pytest.mark.parametrize(
    ("error", "excess"),
    [
        (off(), 100.0),
        (off(exact=1e-11), 0.1),
        (off(local=0.5), 0.5),
        (off(exact=1e-11, local=3.0), 3.0),
        (off(exact=1e-9, local=3.0), 10.0),
        (off(local=math.inf), INFINITE),
        (off(rel_l2=math.inf), math.inf),
        (SAME, 0.0),
    ],
    ids=str,
)
def test_the_excess_is_of_what_the_verdict_rests_on(error: Error, excess: float) -> None:
    (rung,) = judged(error).sites
    assert rung.excess == pytest.approx(excess)


@pytest.mark.parametrize(
    ("of", "to", "question"),
    [
        (None, None, None),
        (mathematics(1e-14), precision(0.5), None),
        (mathematics(1e-3), precision(24.0), MATHEMATICS),
        (mathematics(None), None, MATHEMATICS),
        (mathematics(1e-14), precision(24.0), PRECISION),
        (mathematics(1e-14), precision(None), PRECISION),
        (mathematics(1e-14), precision(None, observations=0), None),
        (None, precision(0.5, gains=1), PRECISION),
    ],
    ids=str,
)
def test_a_run_that_diverges_states_the_question_that_it_fails(
    of: Mathematics | None, to: Precision | None, question: str | None
) -> None:
    local = 24.0 if to is not None and not to.holds else None
    comparison = msgspec.structs.replace(judged(off(exact=1e-14, local=local), off()), mathematics=of, precision=to)
    assert comparison.question == question
    assert comparison.stated == (f"DIVERGED ({question})" if question else "DIVERGED")
    assert msgspec.structs.replace(comparison, verdict=Verdict.MISSING).stated == "MISSING"


def test_a_site_without_an_exact_value_that_is_off_by_itself_may_fail_either() -> None:
    comparison = msgspec.structs.replace(
        judged(off(local=24.0)), mathematics=mathematics(1e-14), precision=precision(24.0)
    )
    assert comparison.question is None
    assert comparison.stated == "DIVERGED"
    assert comparison.first is not None
    said = "off by itself by more than rounding explains, 24 times its bound; as computed 1.00e-03"
    assert comparison.first.by_itself == said


@pytest.mark.parametrize(
    ("first", "other", "says"),
    [
        (
            off(local=3.0),
            off(exact=1.0),
            "3 times its bound, but transformer.blocks.1 in denoise step 0 is 1e+10 times",
        ),
        (off(local=3.0), off(local=math.inf), "transformer.blocks.1 in denoise step 0 is infinitely beyond its own."),
        (off(rel_l2=2e-5), off(rel_l2=3e-2), "2 times its bound, but transformer.blocks.1 in denoise step 0 is 3e+03"),
    ],
    ids=str,
)
def test_a_first_divergence_that_is_small_beside_another_is_not_all_that_is_said(
    first: Error, other: Error, says: str
) -> None:
    comparison = judged(first, other)
    assert comparison.larger is not None
    assert comparison.larger.startswith("The first divergence is ")
    assert says in comparison.larger
    assert f"  but:              {comparison.larger}" in comparison_lines(comparison)


@pytest.mark.parametrize(
    "errors",
    [
        (off(local=3.0), off(local=2900.0)),
        (off(local=2e4), off(exact=1.0)),
        (off(rel_l2=math.inf), off(rel_l2=1.0)),
        (off(local=3.0),),
        (off(local=0.5), SAME),
    ],
    ids=str,
)
def test_elsewhere_the_first_divergence_stands_alone(errors: tuple[Error, ...]) -> None:
    comparison = judged(*errors)
    assert comparison.larger is None
    assert not any(line.startswith("  but:") for line in comparison_lines(comparison))


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (precision(0.25), "is 0.25 of its bound"),
        (precision(24.0), "is 24 times its bound"),
        (precision(None), "is infinitely beyond its bound"),
        (precision(None, observations=0), "is not measured"),
    ],
    ids=str,
)
def test_a_terminal_says_how_precise_the_candidate_is(of: Precision, says: str) -> None:
    (line,) = (x for x in comparison_lines(msgspec.structs.replace(judged(SAME), precision=of)) if "precision:" in x)
    assert f"the largest error of a site by itself {says}" in line


@pytest.fixture(scope="module")
def louder(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics, tmp_path_factory: pytest.TempPathFactory
) -> Comparison:
    """Of a real run: one block is shown too loud, by a part in ten thousand."""
    name, out = f"{implementations.__name__}:Louder", tmp_path_factory.mktemp("louder")
    cells = tiny_cells(tiny, tiny_scenario, fp32_on_cpu, implementations=(name,), schedule=("single-step",))
    (comparison,) = run_parity(tiny_run(tiny, Path(out), exact=True), cells).variants.values()
    return comparison


def test_a_real_run_says_which_question_it_fails_and_what_is_wrong_by_itself(louder: Comparison) -> None:
    assert louder.stated == "DIVERGED (mathematics)"
    assert louder.first is not None
    assert louder.first.site == "transformer.blocks.1.mlp"
    assert str(louder.first).startswith(
        "transformer.blocks.1.mlp at unit 0, denoise step 0: other mathematics, exact values 1.0e-04 apart"
    )
    lines = comparison_lines(louder)
    (mathematics,) = (line for line in lines if line.startswith("  mathematics:"))
    assert "NOT the same" in mathematics
    assert "at most 1.0e-04 apart" in mathematics
    assert sum(line.startswith("  precision:") for line in lines) == 1
    short = comparison_lines(louder, unanswered=False)
    assert [line for line in lines if not line.startswith("    ")] == short


def test_an_input_of_equal_values_and_other_bits_is_told() -> None:
    """-0.0 is 0.0, and no input: bits are what inputs are compared by."""
    table = VerdictTable(JUDGEMENT, FAMILY)
    table.pair(0, key("input.sigma"), Error(identical=False, rel_l2=0.0, max_abs=0.0))
    comparison = table.close("eager", "candidate", evidence="tensors", expected=1, pictures=[])
    assert comparison.verdict is Verdict.INCOMPARABLE
    assert "other bits" in str(comparison.first)
