from collections.abc import Callable, Mapping

import pytest

from tests.harness.explain.blame.candidates import hooks
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.gain import gain
from waypoint_parity.harness.run.adapter import Numerics, Site
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.reference.eager.adapter import EagerAdapter


class Sightless(EagerAdapter):
    """Shows nothing of what it decodes."""

    def sites(self) -> Mapping[str, Site]:
        shown = super().sites()
        return {name: site for name, site in shown.items() if name not in ("decoder.conv_out", "frame")}


class Framed(EagerAdapter):
    """Shows the frame and nothing of how it is decoded."""

    def sites(self) -> Mapping[str, Site]:
        return {name: site for name, site in super().sites().items() if not name.startswith("decoder.")}


@pytest.fixture(scope="module")
def spare(tiny: Checkpoint, fp32_on_cpu: Numerics) -> EagerAdapter:
    return EagerAdapter(tiny, fp32_on_cpu)


@pytest.fixture(scope="module")
def gain_at(
    eager: EagerAdapter, spare: EagerAdapter, tiny: Checkpoint, one_frame: Scenario
) -> Callable[..., float | None]:
    def at(site: str, reference: EagerAdapter = eager, again: EagerAdapter = spare) -> float | None:
        return gain(reference, again, tiny, one_frame, site)

    return at


def test_an_error_of_the_decoded_picture_is_as_large_in_it(gain_at: Callable[..., float | None]) -> None:
    assert gain_at("decoder.conv_out") == pytest.approx(1.0, rel=0.02)


def test_an_error_reaches_the_picture_through_all_that_lies_between(gain_at: Callable[..., float | None]) -> None:
    found = {site: gain_at(site) for site in ("velocity", "transformer.blocks.1.attn.q_proj")}
    # The velocity is nearly all of the latent; a query is one of many terms of a softmax.
    assert 0.05 < (found["velocity"] or 0.0) < 20
    assert 0.0 < (found["transformer.blocks.1.attn.q_proj"] or 0.0) < 0.2 * (found["velocity"] or 0.0)


def test_it_is_the_same_every_time(gain_at: Callable[..., float | None]) -> None:
    assert gain_at("velocity") == gain_at("velocity")


@pytest.mark.parametrize("site", ["input.timestamp", "kv_cache.layers.1.visible", "input.prompt_pad_mask"])
def test_what_is_no_number_cannot_be_a_little_off(gain_at: Callable[..., float | None], site: str) -> None:
    assert gain_at(site) is None


@pytest.mark.parametrize("site", ["encoder.conv_in", "transformer.blocks.1.prompt_cross_attn"])
def test_a_site_that_the_session_does_not_come_to_has_no_gain(gain_at: Callable[..., float | None], site: str) -> None:
    assert gain_at(site) is None


def test_without_a_picture_there_is_no_gain(
    gain_at: Callable[..., float | None], tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    pair = [Sightless(tiny, fp32_on_cpu) for _ in range(2)]
    assert gain_at("velocity", *pair) is None


def test_the_frame_takes_the_picture_s_place_where_that_is_not_shown(
    gain_at: Callable[..., float | None], tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    pair = [Framed(tiny, fp32_on_cpu) for _ in range(2)]
    assert gain_at("velocity", *pair) is not None


def test_nothing_stays_attached(gain_at: Callable[..., float | None], eager: EagerAdapter, spare: EagerAdapter) -> None:
    gain_at("velocity")
    assert hooks(eager) == hooks(spare) == 0
