"""How far a decoded picture is from the reference's: SSIM, mean and maximal difference in levels of 255, PSNR."""

import math
import struct
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import xxhash

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import (
    SAMPLES,
    PictureAt,
    Record,
    kept_pictures,
    picture_path,
    records_mentioning,
)
from waypoint_parity.harness.run.family import Family
from waypoint_parity.harness.run.sites import Kind

Pixels = npt.NDArray[np.uint8]

SSIM_VARIANT = "scikit-image, Gaussian window of sigma 1.5, per channel, population covariance"
# Sums in fp64 are nearer to each other than that, relative to them; sums in fp32 need not be.
_SUMMED = 1e-6
# That window in pixels, each way. A smaller picture is one window of equal weights.
_SSIM_WINDOW = 11


class PictureMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded picture of the candidate against the reference's.

    `ssim` is SSIM_VARIANT; `mean_abs` and `max_abs` are in levels of 255; `psnr` in dB, None for equal pictures.
    `rel_l2` is the relative L2 error of the levels, None against a black picture; `bound` the largest that is noise,
    None where nobody knows.
    """

    at: PictureAt
    ssim: float
    mean_abs: float
    max_abs: int
    psnr: float | None
    rel_l2: float | None = None
    bound: float | None = None

    @property
    def within_noise(self) -> bool:
        """Whether the two are apart by noise at most; without a bound, not at all."""
        if self.rel_l2 is None or self.bound is None:
            return self.max_abs == 0
        return self.rel_l2 <= self.bound


def picture_metrics(
    at: PictureAt, actual: Pixels, expected: Pixels, *, precision: type[np.floating] = np.float64
) -> PictureMetrics:
    """Compare `actual` with `expected`, both [height,width,3] uint8.

    `precision` of the SSIM: in fp32 it takes two thirds of the time, and is good to 1e-6.
    """
    difference = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
    mean_square = float(np.mean(np.square(difference, dtype=np.float64)))
    level = rms(expected)
    return PictureMetrics(
        at=at,
        ssim=_ssim(actual.astype(precision), expected.astype(precision)) if mean_square else 1.0,
        mean_abs=float(difference.mean()),
        max_abs=int(difference.max()),
        psnr=10 * math.log10(255**2 / mean_square) if mean_square else None,
        rel_l2=math.sqrt(mean_square) / level if level else None,
    )


def rms(pixels: Pixels) -> float:
    """Root mean square of a picture, in levels."""
    return math.sqrt(np.mean(np.square(pixels, dtype=np.float64)))


def _ssim(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    if min(expected.shape[:2]) < _SSIM_WINDOW:
        return _ssim_of_one_window(actual, expected)
    # Half a second, which a comparison without pictures need not wait for.
    from skimage.metrics import structural_similarity

    ssim = structural_similarity(
        expected, actual, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
    )
    return float(ssim)


def _ssim_of_one_window(actual: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """SSIM of Wang et al. (2004), with its constants, over the whole picture at once; the mean of the channels."""
    means, others = actual.mean((0, 1)), expected.mean((0, 1))
    covariance = ((actual - means) * (expected - others)).mean((0, 1))
    small, large = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    brightness = (2 * means * others + small) / (means**2 + others**2 + small)
    structure = (2 * covariance + large) / (actual.var((0, 1)) + expected.var((0, 1)) + large)
    return float((brightness * structure).mean())


def unlike_their_records(folder: Path, family: Family) -> list[str]:
    """The kept pictures of a dump that are not those which its records tell of, in words.

    Raises UserError for a broken picture, and for broken records.
    """
    kept = set(kept_pictures(folder))
    records = records_mentioning(folder, family.sites.sites(Kind.PICTURE)) if kept else ()
    return unlike_pictures(folder, family, kept, records)


def unlike_pictures(folder: Path, family: Family, kept: Collection[PictureAt], records: Iterable[Record]) -> list[str]:
    """Those of the `kept` pictures of a dump that are not what these of its records tell of, in words.

    Raises UserError for a broken picture.
    """
    found: list[str] = []
    for record in records:
        if family.sites.kind(record.site, record.phase) is not Kind.PICTURE:
            continue
        if record.shape is None:
            found.append(f"{record.key} has no shape: nothing says that it is of the pictures")
            continue
        number = math.prod(record.shape[:-3])
        if not number:
            found.append(f"{record.key} has the shape {record.shape}: it tells of no picture")
            continue
        # More pictures than there are is no number to count to.
        first, stop = record.call * number, record.call * number + min(number, len(kept) + 1)
        places = [PictureAt(record.unit, record.step, at) for at in range(first, stop)]
        if all(at in kept for at in places):
            pixels = [read_pixels(picture_path(folder, at)) for at in places]
            if (unlike := _unlike(pixels, record, record.shape[-3:])) is not None:
                file, last = picture_path(folder, places[0]), picture_path(folder, places[-1]).name
                which = f"{file} is not the picture" if number == 1 else f"{file} to {last} are not the pictures"
                found.append(f"{which} that {record.key} tells of: {unlike}")
    return found


def _unlike(pixels: Sequence[Pixels], record: Record, shape: list[int]) -> str | None:
    """What a record says differently of these pictures of a shape; None where it is of them.

    Bit for bit where it has a digest, else by its sums.
    """
    if other := [list(each.shape) for each in pixels if list(each.shape) != shape]:
        return f"shape {other[0]}, in the record {shape}"
    values = np.stack(pixels)
    if record.digest is not None:
        digest = xxhash.xxh3_64_hexdigest(values.tobytes())
        return None if digest == record.digest else f"digest {digest}, in the record {record.digest}"
    # Sums are those of a picture with its pixels in other places, too.
    places = [(2 * i * (values.size - 1) + 7) // 14 for i in range(SAMPLES)]
    sample = values.reshape(-1)[places].tolist()
    if record.sample and sample != record.sample:
        return f"sample {sample}, in the record {record.sample}"
    sums = {"mean": values.mean(dtype=np.float64), "std": values.std(dtype=np.float64)}
    for name, here in (sums | {"min": values.min(), "max": values.max()}).items():
        there: float | None = getattr(record, name)
        if there is not None and not math.isclose(here, there, rel_tol=_SUMMED):
            far = abs(float(here) - there) / max(abs(there), 1.0)
            return f"{name} {here:.9g}, in the record {there:.9g}: {far:.1e} away, fp64 sums are within {_SUMMED:g}"
    return None


def read_pixels(path: Path) -> Pixels:
    """The pixels [height,width,3] uint8 of an image file. Raises UserError for a broken one."""
    # Takes as long to import as NumPy, which is all that most comparisons of dumps need.
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    # Pillow tells broken files in many ways.
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path}: cannot be read as an image", found=str(error), expected="a whole PNG", do="dump again"
        ) from error
