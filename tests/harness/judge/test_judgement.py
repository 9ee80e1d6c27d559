import pytest

from tests.harness.observations import FAMILY, key
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.judgement import Tolerance, fixed_tolerance
from waypoint_parity.harness.run.adapter import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_that_can_be_asked_for_has_a_documented_tolerance(dtype: str) -> None:
    assert fixed_tolerance(FAMILY, dtype).activations > 0


def test_a_reduced_precision_has_the_wider_tolerance() -> None:
    assert fixed_tolerance(FAMILY, "bf16").activations > fixed_tolerance(FAMILY, "fp32").activations


def test_a_dtype_without_one_is_refused() -> None:
    with pytest.raises(UserError, match="no tolerance is documented") as caught:
        fixed_tolerance(FAMILY, "fp8")
    assert (caught.value.found, caught.value.do) == ("fp8", "give --tolerance")


def test_a_dtype_without_one_may_be_given_one() -> None:
    given = fixed_tolerance(FAMILY, "fp8", activations=0.25, reason="--tolerance")
    assert (given.activations, given.pictures, given.reason) == (0.25, 0.25, "--tolerance")


def test_a_tolerance_that_is_given_is_that_of_activations_alone() -> None:
    documented, given = fixed_tolerance(FAMILY, "bf16"), fixed_tolerance(FAMILY, "bf16", activations=1e-4)
    assert (given.activations, given.pictures, given.shown_at) == (1e-4, documented.pictures, ("frame",))


def test_no_tolerance_at_all_can_be_given() -> None:
    """Only the same bits pass then."""
    assert fixed_tolerance(FAMILY, "fp32", activations=0.0).activations == 0.0


def test_decoded_pictures_have_a_bound_of_their_own() -> None:
    tolerance = Tolerance(activations=1e-5, pictures=1e-3, shown_at=("frame",))
    bounds = [tolerance.of(key(site)).rel_l2 for site in ("frame", "decoder.conv_out", "latent")]
    assert bounds == [1e-3, 1e-5, 1e-5]
