from tests.harness.observations import manifest
from waypoint_parity.harness.judge.expected import expected_observations
from waypoint_parity.harness.record.selection import Selection

PASSES = {
    "prompt0": ["input.prompt_emb"],
    "denoise0": ["input.noise", "patchify", "latent"],
    "denoise12": ["latent"],
    "decode0": ["frame"],
}
SESSION = {"frames": 4, "passes": PASSES, "expected": 21}


def test_every_site_is_expected_once_in_each_frame_and_the_prompt_once_in_all() -> None:
    assert expected_observations(manifest(**SESSION), manifest(**SESSION)) == {
        ("prompt", 0, "input.prompt_emb"): 1,
        ("denoise", 0, "input.noise"): 4,
        ("denoise", 0, "patchify"): 4,
        ("denoise", 0, "latent"): 4,
        ("denoise", 12, "latent"): 4,
        ("decode", 0, "frame"): 4,
    }


def test_of_two_selections_only_that_is_expected_which_both_took_and_the_inputs() -> None:
    reference = manifest(**SESSION, selection=Selection(sites=("latent", "patchify"), every=2))
    candidate = manifest(**SESSION, selection=Selection(sites=("lat*",), frames=(0, 1, 2), steps=(0,)))
    assert expected_observations(reference, candidate) == {
        ("prompt", 0, "input.prompt_emb"): 1,
        ("denoise", 0, "input.noise"): 4,
        ("denoise", 0, "latent"): 2,
    }


def test_without_the_passes_only_the_number_is_known_and_nothing_for_unlike_selections() -> None:
    bare = manifest(expected=21)
    assert expected_observations(bare, bare) == 21
    assert expected_observations(bare, manifest(expected=9, selection=Selection(every=2))) == 0
