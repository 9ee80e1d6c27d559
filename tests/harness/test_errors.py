import pytest

from waypoint_parity.harness.errors import UserError, listed


def test_an_error_says_what_it_found_what_it_expected_and_what_to_do() -> None:
    error = UserError("the door is shut", found="a lock", expected="a handle", do="knock")
    assert str(error) == "the door is shut\n  found:    a lock\n  expected: a handle\n  do:       knock"
    assert (error.what, error.found, error.expected, error.do) == ("the door is shut", "a lock", "a handle", "knock")


def test_an_error_of_the_caller_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="what"):
        raise UserError("what", found="", expected="", do="")


def test_names_are_listed_while_they_fit_and_counted_where_they_do_not() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefgh")) == "a, b, c, d, e, f, g, h"
    assert listed(list("abcdefghij")) == "a, b, c, d, e, f, g, h and 2 more"
    assert listed(["a", "b", "c"], most=1) == "a and 2 more"
