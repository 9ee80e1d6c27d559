import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.comparison import Verdict, rounded_up


def test_only_identity_and_noise_pass() -> None:
    assert [verdict for verdict in Verdict if verdict.passes] == [Verdict.IDENTICAL, Verdict.WITHIN_NOISE]


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_a_tolerance_that_is_printed_holds_when_it_is_used(value: float) -> None:
    printed = float(rounded_up(value))
    assert value <= printed <= value * 1.011


@pytest.mark.parametrize(("value", "text"), [(2e-4, "2.00e-04"), (2.001e-4, "2.01e-04"), (9.999e-4, "1.00e-03")])
def test_a_tolerance_is_printed_with_three_digits(value: float, text: str) -> None:
    assert rounded_up(value) == text
