import pytest

from tests.harness.observations import key
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.judgement import Tolerance, fixed_tolerance
from waypoint_parity.harness.run.adapter import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_that_can_be_asked_for_has_a_documented_tolerance(dtype: str) -> None:
    assert fixed_tolerance(dtype).activations > 0


def test_a_reduced_precision_has_the_wider_tolerance() -> None:
    assert fixed_tolerance("bf16").activations > fixed_tolerance("fp32").activations


def test_a_dtype_without_one_is_refused() -> None:
    with pytest.raises(UserError, match="no tolerance is documented") as caught:
        fixed_tolerance("fp8")
    assert (caught.value.found, caught.value.do) == ("fp8", "give --tolerance")


def test_the_decoded_frame_has_a_bound_of_its_own() -> None:
    tolerance = Tolerance(activations=1e-5, frame=1e-3)
    bounds = [tolerance.of(key(site)).rel_l2 for site in ("frame", "decoder.conv_out", "latent")]
    assert bounds == [1e-3, 1e-5, 1e-5]
