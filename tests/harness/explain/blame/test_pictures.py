from collections.abc import Mapping

import numpy as np
import pytest

from tests.harness.explain.blame.candidates import hooks
from tests.harness.observations import FAMILY
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.explain.blame.pictures import PictureDifference, difference, share
from waypoint_parity.harness.explain.blame.result import Share
from waypoint_parity.harness.run.adapter import Numerics, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import decoded_pictures
from waypoint_parity.reference.eager.adapter import EagerAdapter

NAMES = ("mean_abs", "ssim", "sharpness", "all_pictures")
NOTHING = PictureDifference(mean_abs=0.0, ssim=0.0, sharpness=0.0, all_pictures=0.0)
WRONG = PictureDifference(mean_abs=10.0, ssim=0.2, sharpness=0.5, all_pictures=8.0)


class Sightless(EagerAdapter):
    """Shows no frame."""

    def sites(self) -> Mapping[str, Site]:
        return {name: site for name, site in super().sites().items() if name != "frame"}


class Upright(EagerAdapter):
    """Shows its frames with their rows the other way up."""

    def sites(self) -> Mapping[str, Site]:
        sites = dict(super().sites())
        return sites | {"frame": Site(sites["frame"].module, layout=lambda frame, inputs: frame.flip(0))}


def times(factor: float, of: PictureDifference = WRONG) -> PictureDifference:
    return PictureDifference(**{name: factor * getattr(of, name) for name in NAMES})


def values(of: Share | None) -> list[float | None]:
    assert of is not None
    return [getattr(of, name) for name in NAMES]


def pixels(seed: int, level: int = 0) -> Pixels:
    drawn = np.random.default_rng(seed).integers(0, 250, (32, 32, 3))
    return (drawn + level).astype(np.uint8)


@pytest.mark.parametrize(("factor", "gone"), [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (2.0, -1.0)])
def test_a_share_is_what_has_gone_of_a_difference_and_negative_where_it_got_worse(factor: float, gone: float) -> None:
    assert values(share(WRONG, times(factor), None)) == pytest.approx([gone] * 4)


def test_the_noise_is_no_part_of_what_could_go() -> None:
    noise = times(0.1)
    assert values(share(WRONG, noise, noise)) == [1.0] * 4
    assert values(share(WRONG, times(0.05), noise)) == [1.0] * 4
    assert values(share(WRONG, times(0.55), noise)) == pytest.approx([0.5] * 4)


def test_there_is_no_share_of_what_is_noise_itself() -> None:
    assert values(share(WRONG, NOTHING, times(0.5))) == [None] * 4
    assert values(share(times(1e-7), NOTHING, None)) == [None] * 4
    only_early = PictureDifference(mean_abs=0.0, ssim=0.0, sharpness=0.0, all_pictures=3.0)
    assert values(share(only_early, NOTHING, None)) == [None, None, None, 1.0]


def test_there_is_no_share_without_both_differences() -> None:
    assert share(None, NOTHING, NOTHING) is None
    assert share(WRONG, None, NOTHING) is None


def test_equal_frames_do_not_differ() -> None:
    assert difference([pixels(0), pixels(1)], [pixels(0), pixels(1)]) == NOTHING


def test_a_difference_is_that_of_the_final_picture_and_the_mean_of_all() -> None:
    found = difference([pixels(0), pixels(1, level=4)], [pixels(0), pixels(1)])
    assert found is not None
    assert (found.mean_abs, found.all_pictures) == (4.0, 2.0)
    assert 0 < found.ssim < 0.1
    assert found.sharpness == pytest.approx(0.0, abs=1e-5)


def test_blur_and_sharpening_both_count_as_a_difference_of_sharpness() -> None:
    sharp = pixels(0)
    blurred = ((sharp.astype(int) + np.roll(sharp, 1, axis=0)) // 2).astype(np.uint8)
    for pair in ((blurred, sharp), (sharp, blurred)):
        found = difference(pair[:1], pair[1:])
        assert found is not None
        assert found.sharpness > 0.1


def test_a_flat_picture_has_no_sharpness_to_lose() -> None:
    found = difference([pixels(0)], [np.zeros((32, 32, 3), np.uint8)])
    assert found is not None
    assert found.sharpness == 0.0


def test_sessions_of_unlike_many_frames_have_no_difference() -> None:
    assert difference([pixels(0)], [pixels(0), pixels(1)]) is None
    assert difference([], []) is None


def test_pictures_of_other_sizes_have_no_difference() -> None:
    assert difference([pixels(0)], [pixels(0)[:16]]) is None


def test_the_decoded_frames_are_kept_in_the_official_layout_while_they_are_watched(
    tiny: Checkpoint, fp32_on_cpu: Numerics, eager: EagerAdapter, tiny_scenario: Scenario
) -> None:
    upright = Upright(tiny, fp32_on_cpu)
    with decoded_pictures(eager, FAMILY) as pictures, decoded_pictures(upright, FAMILY) as turned:
        for adapter in (eager, upright):
            run(adapter, tiny_scenario, tiny)
    assert [frame.shape for frame in pictures] == [(360, 640, 3)] * 2
    assert difference([frame[::-1] for frame in turned], pictures) == NOTHING
    assert not np.array_equal(pictures[0], pictures[1])
    assert hooks(eager) == hooks(upright) == 0


def test_an_implementation_without_a_frame_shows_no_pictures(
    tiny: Checkpoint, fp32_on_cpu: Numerics, one_frame: Scenario
) -> None:
    sightless = Sightless(tiny, fp32_on_cpu)
    with decoded_pictures(sightless, FAMILY) as pictures:
        run(sightless, one_frame, tiny)
    assert pictures == []
