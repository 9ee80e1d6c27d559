"""Frames alone: the pictures of two implementations, frame by frame, where nothing of either is attached."""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, combinations
from pathlib import Path

import msgspec
import numpy as np

from waypoint_parity.harness.compare.picture_sequences import PairedPictures, PicturePair
from waypoint_parity.harness.compare.pictures import SSIM_VARIANT, Pixels, picture_metrics
from waypoint_parity.harness.compare.sharpness import LEAST_SIDE, Resemblance, blur_decision, sharpness
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.progress import silent
from waypoint_parity.harness.record.records import PictureAt

FRAMES_SCHEMA = "waypoint-parity/frames/1"
# From the best to the worst.
_ORDER = list(Verdict)
# A right port may be this far beyond a floor that one pair measured.
_NEAR = 2.0


class FrameResult(msgspec.Struct, frozen=True, kw_only=True):
    """One frame of the candidate against the reference's, by its name there, or its number in a video from 0.

    `ssim` is SSIM_VARIANT; `mean_abs` and `max_abs` are in levels of 255; `psnr` in dB, None for equal pictures;
    `sharpness` the normalised one over the reference's, None where that is flat; `differs_by` what tells the two apart,
    None of pictures that are too small. `one_colour` is the mean difference that a picture of the reference's mean
    colour would have. `bound` is of `mean_abs`, None where there is none. `note` says why a frame was not compared.
    """

    frame: str
    verdict: Verdict
    ssim: float | None = None
    mean_abs: float | None = None
    max_abs: int | None = None
    psnr: float | None = None
    sharpness: float | None = None
    differs_by: Resemblance | None = None
    one_colour: float | None = None
    bound: float | None = None
    note: str | None = None

    @property
    def called(self) -> str:
        """Its name, or which frame it is where the name is a number alone."""
        return f"frame {self.frame}" if self.frame.isdecimal() else self.frame


class FramesFloor(msgspec.Struct, frozen=True, kw_only=True):
    """How far a second run of the reference is from the first: its frames, and the mean of their `mean_abs`.

    `times`: how many times as far the candidate is; None where the second run is equal, or nothing was compared.
    """

    second: str
    mean_abs: float
    times: float | None
    frames: list[FrameResult]


class FramesComparison(msgspec.Struct, frozen=True, kw_only=True):
    """The frames of a candidate against those of a reference, in the reference's order.

    `first` is the place in `frames` of the first that fails. `mean_abs` is the mean over the frames that both have.
    `bound` is the one that was given.
    """

    schema: str
    verdict: Verdict
    reference: str
    candidate: str
    mean_abs: float
    first: int | None
    bound: float | None
    floor: FramesFloor | None
    frames: list[FrameResult]
    notes: list[str]
    ssim_variant: str = SSIM_VARIANT

    def __bool__(self) -> bool:
        """Whether the frames are equal, or within the bound."""
        return self.verdict.passes

    @property
    def worst(self) -> int:
        """The place of the frame whose mean difference is largest."""
        return max(range(len(self.frames)), key=lambda place: self.frames[place].mean_abs or 0.0)

    def chosen(self, most: int) -> list[int]:
        """The places of about `most` frames: the first, the first that fails, the worst, the last, and evenly others.

        Those that are missing come on top, as far as they are no more than `most`.
        """
        count = len(self.frames)
        evenly = range(count) if count <= most else [round(step * (count - 1) / (most - 1)) for step in range(most)]
        missing = [place for place, frame in enumerate(self.frames) if frame.verdict is Verdict.MISSING]
        named = {self.worst, *([] if self.first is None else [self.first]), *missing[:most]}
        return sorted({*evenly, *named})


def compare_frames(
    reference: Path,
    candidate: Path,
    *,
    bound: float | None = None,
    floor: Path | None = None,
    announce: Callable[[str], None] = silent,
) -> FramesComparison:
    """Compare the pictures at `candidate` with those at `reference`: folders of PNGs, or video files.

    A frame passes whose mean difference is at most its bound: `bound`, in levels of 255. Without it a second run of the
    reference at `floor` measures it: the largest mean difference of any frame up to there, but no more than a picture
    of one colour would have. Then the mean over all frames must not be beyond the second run's either. Without both,
    frames must be equal. A frame that one side does
    not have fails, and so does one of another size. `announce` takes the name of each frame.

    Raises UserError for what cannot be read, paired or compared at all, and for a bound that is none.
    """
    _check_bound(bound)
    paths = [path for path in (reference, candidate, floor) if path is not None]
    names, pairs = _short(paths), PairedPictures(reference, candidate)
    repeated = None if floor is None else PairedPictures(reference, floor)
    _check_distinct(paths)
    notes, second, limits = pairs.notes, list[FrameResult](), dict[str, float]()
    if repeated is not None:
        second = _floor_frames(repeated, names[2], announce)
        notes = [*notes, *(note for note in repeated.notes if note not in notes)]
        limits = _limits(second)
    frames = list(_judged(pairs, names, lambda name: limits.get(name) if bound is None else bound, announce))
    if not any(frame.mean_abs is not None for frame in frames):
        raise UserError(
            "no frame can be compared",
            found=str(frames[0].note),
            expected="pictures of the same size",
            do="give the pictures as the decoder makes them",
        )
    mean = _mean(frames)
    measured = None
    if repeated is not None:
        own = _mean(second)
        measured = FramesFloor(second=names[2], mean_abs=own, times=mean / own if own else None, frames=second)
    verdict = max((frame.verdict for frame in frames), key=_ORDER.index)
    if verdict.passes and bound is None and measured is not None and mean > measured.mean_abs:
        verdict = Verdict.DIVERGED
        notes = [*notes, "no frame is beyond the floor, but the mean over all frames is"]
    return FramesComparison(
        schema=FRAMES_SCHEMA,
        verdict=verdict,
        reference=names[0],
        candidate=names[1],
        mean_abs=mean,
        first=next((place for place, frame in enumerate(frames) if not frame.verdict.passes), None),
        bound=bound,
        floor=measured,
        frames=frames,
        notes=[*notes, *_remarks(verdict, bound, measured, frames)],
    )


def _check_bound(bound: float | None) -> None:
    if bound is not None and not (math.isfinite(bound) and bound >= 0):
        raise UserError(
            "no bound", found=str(bound), expected="a mean difference in levels of 255, 0 or more", do="correct --bound"
        )


def _check_distinct(paths: Sequence[Path]) -> None:
    roles = ("the reference", "the candidate", "the second run of the reference")
    for (role, path), (other, twin) in combinations(zip(roles, paths, strict=False), 2):
        if path.samefile(twin):
            raise UserError(
                "pictures would be compared with themselves",
                found=f"{path} as {role}, {twin} as {other}",
                expected="pictures of different runs",
                do="correct one of the paths",
            )


def _short(paths: Sequence[Path]) -> list[str]:
    """What the sides are called: the last part of each path, or all of it where two parts are equal."""
    names = [path.resolve().name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _floor_frames(pairs: PairedPictures, second: str, announce: Callable[[str], None]) -> list[FrameResult]:
    """A second run of the reference against the first.

    Raises UserError where not every frame can be compared, and for one that was coded differently: its floor would be
    the encoder's.
    """
    frames, unlike = list[FrameResult](), pairs.unlike_coding if pairs.lossy else []
    for pair in [] if unlike else pairs:
        announce(pair.name)
        found = _measured(pair, ("the reference", second))
        if found.note is not None:
            unlike = [f"frame {pair.name}: {found.note}"]
            break
        noise = found.verdict if found.verdict is Verdict.IDENTICAL else Verdict.WITHIN_NOISE
        frames.append(msgspec.structs.replace(found, verdict=noise))
    if unlike:
        raise UserError(
            "the floor cannot be measured",
            found="; ".join(unlike),
            expected="two whole runs of the reference, written in the same way",
            do="correct --floor, or judge by --bound",
        )
    return frames


def _limits(second: Sequence[FrameResult]) -> dict[str, float]:
    """The bound of every frame by a second run of the reference: what it has reached by then.

    No more than a picture of one colour would have: beyond that a floor would pass anything. Where the reference itself
    is of one colour, what the second run shows at that frame.
    """
    reached = accumulate((frame.mean_abs or 0.0 for frame in second), max)
    return {
        frame.frame: min(limit, frame.one_colour or frame.mean_abs or 0.0)
        for frame, limit in zip(second, reached, strict=True)
    }


def _judged(
    pairs: PairedPictures, names: Sequence[str], bound: Callable[[str], float | None], announce: Callable[[str], None]
) -> Iterator[FrameResult]:
    for pair in pairs:
        announce(pair.name)
        found, limit = _measured(pair, names), bound(pair.name)
        if found.verdict is Verdict.DIVERGED and found.mean_abs is not None and limit is not None:
            within = found.mean_abs <= limit
            found = msgspec.structs.replace(found, verdict=Verdict.WITHIN_NOISE if within else Verdict.DIVERGED)
        yield msgspec.structs.replace(found, bound=limit)


def _measured(pair: PicturePair, names: Sequence[str]) -> FrameResult:
    """One pair, DIVERGED unless it is equal."""
    name, expected, actual = pair
    if expected is None or actual is None:
        lacking, other = names[:2] if expected is None else names[1::-1]
        return FrameResult(frame=name, verdict=Verdict.MISSING, note=f"{lacking} does not have it, {other} does")
    if actual.shape != expected.shape:
        note = f"{_size(actual)} pixels in {names[1]}, {_size(expected)} in {names[0]}: not compared"
        return FrameResult(frame=name, verdict=Verdict.DIVERGED, note=note)
    metrics = picture_metrics(PictureAt(0), actual, expected)
    equal, sharp = metrics.max_abs == 0, sharpness(expected)
    told = not equal and min(expected.shape[:2]) >= LEAST_SIDE
    return FrameResult(
        frame=name,
        verdict=Verdict.IDENTICAL if equal else Verdict.DIVERGED,
        ssim=metrics.ssim,
        mean_abs=metrics.mean_abs,
        max_abs=metrics.max_abs,
        psnr=metrics.psnr,
        sharpness=sharpness(actual) / sharp if sharp else None,
        differs_by=blur_decision(actual, expected).cause if told else None,
        one_colour=float(np.abs(expected - expected.mean((0, 1))).mean()),
    )


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _mean(frames: Sequence[FrameResult]) -> float:
    return statistics.fmean(frame.mean_abs for frame in frames if frame.mean_abs is not None)


def _remarks(
    verdict: Verdict, bound: float | None, floor: FramesFloor | None, frames: Sequence[FrameResult]
) -> list[str]:
    """What a reader of the verdict should know."""
    remarks = []
    if flat := [frame for frame in frames if frame.one_colour == 0]:
        remarks.append(f"the reference shows one colour, and so nothing, in {listed(_called(flat), most=3)}")
    wide = [frame for frame in frames if frame.bound and frame.one_colour and frame.bound >= frame.one_colour]
    if wide:
        which = "the bound" if bound is not None else "the floor, which is cut there,"
        remarks.append(f"{which} is as large as a picture of one colour is off: {listed(_called(wide), most=3)}")
    if floor is None:
        if bound is None and verdict is Verdict.DIVERGED:
            remarks.append("no bound was given, so frames must be equal: --bound or --floor give one")
    elif floor.mean_abs and [frame.mean_abs for frame in frames] == [frame.mean_abs for frame in floor.frames]:
        remarks.append("every figure equals that of the second run: is --floor a copy of the candidate?")
    elif bound is None and verdict is Verdict.DIVERGED and floor.times is not None and floor.times < _NEAR:
        remarks.append(f"one pair tells the size of the floor, not its spread: under {_NEAR:g} times it may be chance")
    return remarks


def _called(frames: Sequence[FrameResult]) -> list[str]:
    return [frame.called for frame in frames]
