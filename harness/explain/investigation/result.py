"""What an investigation of one cell found, as values with a JSON form."""

from pathlib import Path
from typing import Literal

import msgspec

from waypoint_parity.harness.compare.pictures import PictureMetrics
from waypoint_parity.harness.compare.sharpness import BlurDecision
from waypoint_parity.harness.files import read_document
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run.family import PipelinePlace

INVESTIGATION_SCHEMA = "waypoint-parity/investigation/2"
INVESTIGATION_NAME = "investigation.json"
Birthplace = PipelinePlace | Literal["unknown"]


class PictureFloor(msgspec.Struct, frozen=True, kw_only=True):
    """What an error of the size of the picture's bound, spread evenly, does to the reference's."""

    ssim: float
    mean_abs: float
    psnr: float
    sharpness: float


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One decoded picture: the candidate's against the reference's.

    `sharpness` is the candidate's normalised sharpness over the reference's, None of a flat picture;
    `decision` what tells the two apart, None where they differ by no more than noise or are too small; `floor` None
    without a bound.
    """

    metrics: PictureMetrics
    sharpness: float | None
    decision: BlurDecision | None = None
    floor: PictureFloor | None = None


class LatentStep(msgspec.Struct, frozen=True, kw_only=True):
    """The latent after one step: the share of its energy in the high band, of both sides.

    `sigma` is the one that the step leads to, None without a schedule. None where a side has no latent there.
    """

    unit: int
    phase: str
    step: int
    site: str
    branch: str = ""
    sigma: float | None
    reference: float | None
    candidate: float | None


class CrossedPicture(msgspec.Struct, frozen=True, kw_only=True):
    """One picture, decoded across: each decoder on the other side's latent, held against the reference's own picture.

    `output`: relative L2 error of what the candidate's decoder gives for the reference's latent, before it is made a
    picture; None where it is not shown.
    """

    at: PictureAt
    reference_decoder: PictureMetrics
    candidate_decoder: PictureMetrics
    output: float | None = None


class Birth(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the pipeline the difference of the pictures was born, and what says so, the strongest first."""

    place: Birthplace
    because: list[str]


class Investigation(msgspec.Struct, frozen=True, kw_only=True):
    """How the pictures of one cell differ, and where that was born; `birth` is None where nothing diverged."""

    schema: str
    pictures: list[Picture]
    trajectory: list[LatentStep]
    crossing: list[CrossedPicture] = []
    # Why nothing was decoded across, where something should have been.
    not_crossed: str | None = None
    birth: Birth | None = None


def read_investigation(path: Path) -> Investigation:
    """The investigation in a file. Raises UserError for a broken file and for another schema."""
    return read_document(
        path, Investigation, INVESTIGATION_SCHEMA, called="an investigation", do="run waypoint-parity parity again"
    )
