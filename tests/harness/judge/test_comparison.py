import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.observations import JUDGEMENT
from waypoint_parity.harness.judge.comparison import LatentError, Verdict, rounded_up, where_in
from waypoint_parity.harness.judge.table import incomparable
from waypoint_parity.harness.run.keys import Key


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
    assert msgspec.structs.replace(comparison, growth=growth).horizon == horizon


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
