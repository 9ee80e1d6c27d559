"""What an investigation of one cell found, as values with a JSON form."""

from pathlib import Path
from typing import Literal

import msgspec

from waypoint_parity.harness.compare.pictures import FrameMetrics
from waypoint_parity.harness.compare.sharpness import BlurDecision
from waypoint_parity.harness.files import read_document

INVESTIGATION_SCHEMA = "waypoint-parity/investigation/1"
INVESTIGATION_NAME = "investigation.json"
Birthplace = Literal["input", "sampler", "transformer", "cache", "decoder", "after the decoder", "unknown"]


class PictureFloor(msgspec.Struct, frozen=True, kw_only=True):
    """What an error of the size of the picture's bound, spread evenly, does to the reference's frame."""

    ssim: float
    mean_abs: float
    psnr: float
    sharpness: float


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded frame: the candidate's against the reference's.

    `sharpness` is the candidate's normalised sharpness over the reference's, None of a flat frame;
    `decision` what tells the two apart, None where they differ by no more than noise; `floor` None without a bound.
    """

    metrics: FrameMetrics
    sharpness: float | None
    decision: BlurDecision | None = None
    floor: PictureFloor | None = None


class LatentStep(msgspec.Struct, frozen=True, kw_only=True):
    """The latent after one denoise step: the share of its energy in the high band, of both sides.

    `sigma` is the one that the step leads to. None where a side has no latent there.
    """

    frame: int
    step: int
    sigma: float
    reference: float | None
    candidate: float | None


class CrossedFrame(msgspec.Struct, frozen=True, kw_only=True):
    """One frame, decoded across: each decoder on the other side's latent, held against the reference's own frame.

    `output`: relative L2 error of what the candidate's decoder gives for the reference's latent, before it is made a
    picture (decoder.conv_out); None where it is not shown.
    """

    frame: int
    reference_decoder: FrameMetrics
    candidate_decoder: FrameMetrics
    output: float | None = None


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the pipeline the difference of the pictures was born, and what says so, the strongest first."""

    place: Birthplace
    because: list[str]


class Investigation(msgspec.Struct, frozen=True, kw_only=True):
    """How the frames of one cell differ, and where that was born; `birth` is None where nothing diverged."""

    schema: str
    pictures: list[Picture]
    trajectory: list[LatentStep]
    crossing: list[CrossedFrame] = []
    # Why nothing was decoded across, where something should have been.
    not_crossed: str | None = None
    birth: Birth | None = None


def read_investigation(path: Path) -> Investigation:
    """The investigation in a file. Raises UserError for a broken file and for another schema."""
    return read_document(
        path, Investigation, INVESTIGATION_SCHEMA, called="an investigation", do="run waypoint-parity parity again"
    )
