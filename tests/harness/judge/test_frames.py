from pathlib import Path

import numpy as np
import pytest

from tests.harness.frame_files import session, write_folder
from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.frames import FramesComparison, compare_frames


def off_by(levels: list[int]) -> list[Pixels]:
    """A session whose frames are off by so many levels each."""
    return [frame + np.uint8(level) for frame, level in zip(session(len(levels)), levels, strict=True)]


@pytest.fixture
def compared(tmp_path: Path) -> "Compared":
    return Compared(tmp_path)


class Compared:
    """Compares sessions that are off by so many levels with one that is off by none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, candidate: list[int], *, bound: float | None = None, floor: list[int] | None = None):  # type: ignore[no-untyped-def]
        reference = write_folder(self._folder / "reference", session(len(candidate)))
        port = write_folder(self._folder / "port", off_by(candidate))
        second = None if floor is None else write_folder(self._folder / "second", off_by(floor))
        return compare_frames(reference, port, bound=bound, floor=second)


def verdicts(comparison: FramesComparison) -> list[Verdict]:
    return [frame.verdict for frame in comparison.frames]


def test_equal_frames_are_identical(compared: Compared) -> None:
    found = compared([0, 0, 0])
    assert (found.verdict, bool(found), found.first, found.mean_abs) == (Verdict.IDENTICAL, True, None, 0.0)
    assert [frame.ssim for frame in found.frames] == [1.0] * 3


def test_without_a_bound_one_level_fails_and_the_first_frame_is_known(compared: Compared) -> None:
    found = compared([0, 0, 1, 4])
    assert (found.verdict, found.first, found.worst) == (Verdict.DIVERGED, 2, 3)
    assert [frame.mean_abs for frame in found.frames] == [0.0, 0.0, 1.0, 4.0]
    assert any("--bound" in note for note in found.notes)


def test_a_frame_passes_up_to_the_bound_that_is_given(compared: Compared) -> None:
    found = compared([0, 2, 3, 1], bound=2.0)
    assert found.notes == []
    assert verdicts(found) == [Verdict.IDENTICAL, Verdict.WITHIN_NOISE, Verdict.DIVERGED, Verdict.WITHIN_NOISE]
    assert (found.verdict, found.first) == (Verdict.DIVERGED, 2)


def test_a_candidate_within_the_bound_holds(compared: Compared) -> None:
    assert compared([1, 2, 2], bound=2.0).verdict is Verdict.WITHIN_NOISE


def test_the_floor_is_what_a_second_run_has_reached_by_then(compared: Compared) -> None:
    found = compared([1, 4, 3, 20], floor=[1, 5, 2, 6])
    assert [frame.bound for frame in found.frames] == [1.0, 5.0, 5.0, 6.0]
    assert (found.verdict, found.first) == (Verdict.DIVERGED, 3)
    assert found.floor is not None
    assert (found.floor.mean_abs, found.mean_abs, found.floor.times) == (3.5, 7.0, 2.0)


def test_a_candidate_within_the_floor_holds(compared: Compared) -> None:
    found = compared([0, 1, 2], floor=[1, 2, 3])
    assert (found.verdict, found.first) == (Verdict.WITHIN_NOISE, None)


def test_one_frame_of_the_floor_that_stands_out_excuses_no_session(compared: Compared) -> None:
    """Each frame is below the largest of the second run, but the candidate is five times as far off."""
    found = compared([0, 10, 10, 10, 10], floor=[0, 10, 0, 0, 0])
    assert found.first is None
    assert found.verdict is Verdict.DIVERGED


def test_a_floor_that_a_picture_of_one_colour_would_pass_excuses_no_picture(tmp_path: Path) -> None:
    """The second run failed, and is black: nothing is near to that but pictures that are as wrong."""
    frames = session(3)
    reference = write_folder(tmp_path / "reference", frames)
    black = write_folder(tmp_path / "black", [np.zeros_like(frame) for frame in frames])
    port = write_folder(tmp_path / "port", [frame[::-1].copy() for frame in frames])
    found = compare_frames(reference, port, floor=black)
    assert found.floor is not None
    assert found.mean_abs < found.floor.mean_abs
    assert verdicts(found) == [Verdict.DIVERGED] * 3
    assert any("frame 000000" in note for note in found.notes)


def test_a_bound_that_a_picture_of_one_colour_would_pass_is_told(compared: Compared) -> None:
    assert any("frame 000000" in note for note in compared([0, 1], bound=100.0).notes)


def test_beside_a_bound_the_floor_is_told_and_decides_nothing(compared: Compared) -> None:
    found = compared([2, 2], bound=2.0, floor=[1, 1])
    assert found.verdict is Verdict.WITHIN_NOISE
    assert found.floor is not None
    assert found.floor.times == 2.0


def test_a_reference_that_repeats_itself_allows_no_difference(compared: Compared) -> None:
    found = compared([0, 1], floor=[0, 0])
    assert found.verdict is Verdict.DIVERGED
    assert found.floor is not None
    assert found.floor.times is None


def test_a_floor_with_the_candidates_own_figures_is_remarked(compared: Compared) -> None:
    assert any("--floor" in note for note in compared([1, 2], floor=[1, 2]).notes)


def test_missing_and_additional_frames_fail_by_name_and_count_even_under_any_bound(tmp_path: Path) -> None:
    whole, other = (write_folder(tmp_path / name, session(3)) for name in ("whole", "other"))
    (other / "000001.png").unlink()
    for sides, lacking in (((whole, other), "other"), ((other, whole), "other")):
        found = compare_frames(*sides, bound=255.0)
        assert (found.verdict, found.first) == (Verdict.MISSING, 1)
        assert found.frames[1].frame == "000001"
        assert str(found.frames[1].note).startswith(lacking)


def test_a_frame_of_another_size_fails_and_says_the_sizes(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "reference", session(3))
    frames = session(3)
    port = write_folder(tmp_path / "port", [frames[0], frames[1][:12], frames[2]])
    found = compare_frames(reference, port, bound=255.0)
    assert (found.verdict, found.first) == (Verdict.DIVERGED, 1)
    assert "32x12" in str(found.frames[1].note)
    assert "32x24" in str(found.frames[1].note)


def test_sessions_that_are_all_of_another_size_cannot_be_compared(tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "reference", session(2))
    port = write_folder(tmp_path / "port", session(2, size=(12, 16)))
    with pytest.raises(UserError, match="no frame can be compared"):
        compare_frames(reference, port)


def test_a_floor_that_lacks_a_frame_is_none(tmp_path: Path) -> None:
    reference, port, second = (write_folder(tmp_path / name, session(3)) for name in "abc")
    (second / "000002.png").unlink()
    with pytest.raises(UserError, match="the floor cannot be measured") as refused:
        compare_frames(reference, port, floor=second)
    assert "000002" in refused.value.found


@pytest.mark.parametrize("roles", ["aa", "aba", "abb"])
def test_pictures_are_not_compared_with_themselves(roles: str, tmp_path: Path) -> None:
    for name in "ab":
        write_folder(tmp_path / name, session(2))
    (tmp_path / "b-link").symlink_to(tmp_path / roles[-1])
    reference, candidate = (tmp_path / name for name in roles[:2])
    with pytest.raises(UserError, match="with themselves"):
        compare_frames(reference, candidate if len(roles) > 2 else tmp_path / "b-link", floor=tmp_path / "b-link")


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), -1.0])
def test_what_bounds_nothing_is_no_bound(bound: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no bound"):
        compare_frames(tmp_path, tmp_path, bound=bound)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (10, 10), (11, 11)])
def test_pictures_smaller_than_the_window_of_ssim_have_figures_too(size: tuple[int, int], tmp_path: Path) -> None:
    reference = write_folder(tmp_path / "reference", session(2, size=size))
    port = write_folder(tmp_path / "port", session(2, size=size, noise=9))
    for frame in compare_frames(reference, port).frames:
        assert frame.ssim is not None
        assert -1.0 <= frame.ssim < 1.0
        assert frame.mean_abs


def test_flat_pictures_have_figures_and_no_sharpness(tmp_path: Path) -> None:
    flat = [np.full((80, 80, 3), level, np.uint8) for level in (0, 100, 255)]
    reference = write_folder(tmp_path / "reference", flat)
    port = write_folder(tmp_path / "port", [*flat[:2], np.zeros_like(flat[0])])
    found = compare_frames(reference, port)
    assert [frame.sharpness for frame in found.frames] == [None] * 3
    assert any("000000, frame 000001, frame 000002" in note for note in found.notes)
    assert found.frames[2].mean_abs == 255.0
    assert found.frames[2].ssim == pytest.approx(0.0, abs=1e-3)


def test_of_many_frames_the_first_the_failing_the_worst_and_the_last_are_chosen(compared: Compared) -> None:
    levels = [0] * 40
    levels[17], levels[23] = 1, 9
    found = compared(levels)
    chosen = found.chosen(5)
    assert {0, 17, 23, 39} <= set(chosen)
    assert len(chosen) <= 7
    assert found.chosen(40) == list(range(40))
