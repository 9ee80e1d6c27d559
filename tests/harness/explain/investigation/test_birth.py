"""Where a difference was born: by decoding across, by blame, by the first divergence; unknown where they conflict."""

import pytest

from tests.harness.explain.investigation.values import FAMILY, blamed, comparison, crossed, diverged_at, rung, shown
from waypoint_parity.harness.explain.investigation.birth import birth
from waypoint_parity.harness.explain.investigation.result import Birth
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.run.keys import Key

SAMPLER = Key(0, "denoise", 0, "latent")
ATTENTION = "transformer.blocks.0.attn"
DECODER = Key(0, "decode", 0, "decoder.conv_in")
FRAME = Key(0, "decode", 0, "frame")


def found(born: Birth | None) -> Birth:
    assert born is not None
    assert born.because
    return born


def test_nothing_is_born_where_parity_holds() -> None:
    for verdict in (Verdict.IDENTICAL, Verdict.WITHIN_NOISE):
        assert birth(comparison(verdict=verdict), shown(0.0), [], None, FAMILY) is None


def test_runs_that_were_given_different_inputs_part_there() -> None:
    reason = "input.noise differs at frame 1, denoise step 0"
    born = found(birth(comparison(verdict=Verdict.INCOMPARABLE, reason=reason), [], [], None, FAMILY))
    assert born.place == "input"
    assert reason in born.because[0]


@pytest.mark.parametrize(
    ("phase", "site", "place"),
    [
        ("denoise", "input.sigma", "input"),
        ("image", "encoder.conv_in", "input"),
        ("denoise", "denoise_step_emb", "transformer"),
        ("denoise", "ctrl_emb", "transformer"),
        ("denoise", "transformer.blocks.1.attn.q_rope", "transformer"),
        ("denoise", "transformer.blocks.0.prompt_cross_attn", "transformer"),
        ("denoise", "transformer.blocks.2.mlp", "transformer"),
        ("denoise", "velocity", "transformer"),
        ("denoise", "latent", "sampler"),
        ("cache", "kv_cache.layers.0.written", "cache"),
    ],
)
def test_a_wrong_latent_comes_from_the_first_part_that_diverges(phase: str, site: str, place: str) -> None:
    first = diverged_at(Key(0, phase, 0, site), FRAME)
    born = found(birth(first, shown(12.3), [crossed(12.31, 0.0)], None, FAMILY))
    assert born.place == place
    assert "12.3 of 12.3 levels" in born.because[0]
    assert "the latents are wrong" in born.because[0]
    assert "its decoding is right" in born.because[1]
    assert site in born.because[2]


@pytest.mark.parametrize(
    ("frame", "image", "place"), [(0, False, "transformer"), (1, False, "cache"), (0, True, "cache")]
)
def test_an_attention_that_was_right_without_a_history_reads_a_wrong_one(frame: int, image: bool, place: str) -> None:
    first = diverged_at(Key(frame, "denoise", 0, ATTENTION))
    first.sites.extend([rung("image", ATTENTION, 0.0)] if image else [])
    born = found(birth(first, shown(0.0, 5.0), [crossed(5.0, 0.0, unit=1)], None, FAMILY))
    assert born.place == place


@pytest.mark.parametrize(("output", "place"), [(0.5, "decoder"), (1e-7, "after the decoder"), (None, "decoder")])
def test_a_wrong_decoding_is_in_the_decoder_or_after_it(output: float | None, place: str) -> None:
    judged = diverged_at(FRAME, output=output or 0.0)
    born = found(birth(judged, shown(20.0), [crossed(0.0, 20.0, output)], None, FAMILY))
    assert born.place == place
    assert "decoding is wrong" in born.because[0]


def test_of_two_wrong_halves_the_one_that_does_more_is_named_and_both_are_told() -> None:
    judged = diverged_at(SAMPLER, DECODER, output=0.5)
    for latents, decoder, place in ((9.0, 2.0, "sampler"), (2.0, 9.0, "decoder")):
        born = found(birth(judged, shown(10.0), [crossed(latents, decoder, 0.5)], None, FAMILY))
        assert born.place == place
        told = " ".join(born.because)
        assert "the latents are wrong" in told
        assert "its decoding is wrong" in told


def test_the_worst_picture_decides() -> None:
    judged = diverged_at(SAMPLER, DECODER, output=0.5)
    crossing = [crossed(0.0, 1.0, 0.5, unit=0), crossed(8.0, 0.0, unit=1)]
    assert found(birth(judged, shown(1.0, 8.0), crossing, None, FAMILY)).place == "sampler"
    assert found(birth(judged, shown(9.0, 8.0), crossing, None, FAMILY)).place == "decoder"


def test_halves_that_do_not_account_for_the_picture_leave_it_unknown() -> None:
    born = found(birth(diverged_at(SAMPLER), shown(7.0), [crossed(0.0, 0.0)], None, FAMILY))
    assert born.place == "unknown"
    assert "the two do not account for it" in " ".join(born.because)


def test_a_wrong_latent_without_a_wrong_part_before_it_is_unknown() -> None:
    born = found(birth(diverged_at(DECODER), shown(7.0), [crossed(7.0, 0.0)], None, FAMILY))
    assert born.place == "unknown"
    assert "the latents are wrong" in born.because[0]


def test_blame_knows_better_than_the_first_divergence() -> None:
    judged = diverged_at(SAMPLER)
    born = found(birth(judged, shown(7.0), [crossed(7.0, 0.0)], blamed(judged, "decoder", "cache", "sampler"), FAMILY))
    # The likeliest cause of those that can make a latent wrong.
    assert born.place == "cache"
    assert "cache" in born.because[-1]


def test_blame_that_contradicts_itself_is_not_relied_on() -> None:
    judged = diverged_at(SAMPLER)
    doubtful = blamed(judged, "cache", contradictions=["it is not what it seems"])
    born = found(birth(judged, shown(7.0), [crossed(7.0, 0.0)], doubtful, FAMILY))
    assert born.place == "sampler"
    assert "it is not what it seems" in born.because[-1]


@pytest.mark.parametrize(
    ("first", "growth", "output", "place"),
    [
        (SAMPLER, (0.0, 0.2), None, "sampler"),
        # The latents are wrong, and so is the decoder: how much each does only decoding across can tell.
        (DECODER, (0.0, 0.2), 0.5, "unknown"),
        (DECODER, (0.0, 0.0), 0.5, "decoder"),
        (FRAME, (0.0, 0.0), 0.0, "after the decoder"),
        # Too small to reach the latent: then it is not what the picture shows.
        (SAMPLER, (0.0, 0.0), 0.5, "decoder"),
        (SAMPLER, (0.0, 0.0), None, "unknown"),
        (SAMPLER, (), None, "sampler"),
    ],
)
def test_without_decoding_across_the_final_latents_tell(
    first: Key, growth: tuple[float, ...], output: float | None, place: str
) -> None:
    assert found(birth(diverged_at(first, growth=growth, output=output), shown(7.0), [], None, FAMILY)).place == place


@pytest.mark.parametrize(
    ("levels", "said"), [((0.0,), "the pictures differ by no more than noise"), ((), "no pictures were compared")]
)
def test_without_pictures_that_differ_the_origin_is_named_all_the_same(levels: tuple[float, ...], said: str) -> None:
    born = found(birth(diverged_at(SAMPLER), shown(*levels), [], None, FAMILY))
    assert born.place == "sampler"
    assert said in born.because
