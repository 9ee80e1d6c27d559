"""Cross-decoding: either decoder on the other side's latents, once each makes its own pictures of its own again."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.faults.autoencoder import clamped, resized_first
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.investigation.crossing import Recorded, cross_decode
from waypoint_parity.harness.explain.investigation.result import CrossedPicture
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, Taps, decoded_pictures
from waypoint_parity.reference.eager.adapter import EagerAdapter

BOUNDS = {PictureAt(0): 1e-3, PictureAt(1): 1e-3}
Decoding = Callable[..., list[CrossedPicture] | str]


class WithoutLatent(EagerAdapter):
    """Does not show its latents."""

    def sites(self) -> Mapping[str, Site]:
        return {name: site for name, site in super().sites().items() if name != "latent"}


def drawn_over(adapter: Any) -> None:
    """Every picture is darker than the one before: what is decoded depends on what was decoded earlier."""
    pictures = 0

    def darker(module: object, inputs: object, frame: Tensor) -> Tensor:
        nonlocal pictures
        pictures += 1
        return frame // pictures

    adapter.engine.autoencoder.decoder.frame.register_forward_hook(darker)


def noisy_latents(adapter: Any) -> None:
    """The final latent is not what the sampler arrived at."""
    adapter.engine.latent.register_forward_hook(lambda module, inputs, latent: latent.flip(-1))


def recorded(adapter: Adapter, checkpoint: Checkpoint, scenario: Scenario) -> Recorded:
    """What a session of `adapter` shows."""
    latents: dict[int, Tensor] = {}

    def keep(seen: Observation) -> None:
        if seen.key.phase == "denoise":
            latents[seen.key.unit] = seen.tensor.clone()

    watched = {name: site for name, site in adapter.sites().items() if name == "latent"}
    with decoded_pictures(adapter, checkpoint.family) as pictures, Taps(watched, keep) as taps:
        run(adapter, scenario, checkpoint, taps)
    return Recorded(latents, {PictureAt(unit): picture for unit, picture in enumerate(pictures)})


@pytest.fixture(scope="module")
def crossing(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Decoding:
    """Cross-decode the reference and a candidate with a change, as a session of theirs was recorded."""

    def crossed(
        change: Callable[[Any], None], *, frames: int = 1, image: Tensor | None = None
    ) -> list[CrossedPicture] | str:
        scenario = tiny.family.first_units(tiny_scenario, frames).with_tensors(image=image)
        sides = EagerAdapter(tiny, fp32_on_cpu), CandidateAdapter(tiny, fp32_on_cpu)
        change(sides[1])
        shown = recorded(sides[0], tiny, scenario), recorded(sides[1], tiny, scenario)
        return cross_decode(*sides, tiny, scenario, shown, BOUNDS)

    return crossed


def test_a_wrong_decoder_shows_on_the_right_latents_alone(crossing: Decoding) -> None:
    frames = crossing(resized_first, frames=2)
    assert not isinstance(frames, str)
    assert [frame.at for frame in frames] == [PictureAt(0), PictureAt(1)]
    for frame in frames:
        assert frame.reference_decoder.within_noise
        assert frame.candidate_decoder.mean_abs > 1
        assert frame.output is not None
        assert frame.output > 0.1


def test_what_comes_after_the_decoder_leaves_its_output_right(crossing: Decoding) -> None:
    (frame,) = list(crossing(clamped))
    assert isinstance(frame, CrossedPicture)
    assert not frame.candidate_decoder.within_noise
    assert frame.output is not None
    assert frame.output < 1e-5


def test_wrong_latents_show_in_the_right_decoder_alone_in_a_session_with_an_image_too(crossing: Decoding) -> None:
    image = torch.randint(0, 256, (360, 640, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (frame,) = list(crossing(noisy_latents, image=image))
    assert isinstance(frame, CrossedPicture)
    assert not frame.reference_decoder.within_noise
    assert frame.candidate_decoder.within_noise
    assert frame.candidate_decoder.bound == BOUNDS[PictureAt(0)]


def test_a_side_that_does_not_make_its_own_pictures_again_cannot_be_asked(crossing: Decoding) -> None:
    reason = crossing(drawn_over)
    assert isinstance(reason, str)
    assert reason.startswith("the candidate does not make its own picture of its own latent again (picture 0: up to ")


def test_a_side_that_cannot_be_given_a_latent_is_named(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    sides = WithoutLatent(tiny, fp32_on_cpu), CandidateAdapter(tiny, fp32_on_cpu)
    shown = recorded(sides[1], tiny, tiny.family.first_units(tiny_scenario, 1))
    reason = cross_decode(*sides, tiny, tiny_scenario, (shown, shown), BOUNDS)
    assert reason == "the reference cannot be given a latent: latent is no site of it that can be patched"


def test_without_recorded_latents_there_is_nothing_to_decode(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    side, nothing = CandidateAdapter(tiny, fp32_on_cpu), Recorded({}, {})
    reason = cross_decode(side, side, tiny, tiny_scenario, (nothing, nothing), BOUNDS)
    assert reason == "there is no frame of which both sides kept the final latent and the picture"
