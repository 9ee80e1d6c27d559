from tests.harness.observations import manifest
from waypoint_parity.harness.judge.diff import expected_observations
from waypoint_parity.harness.record.records import PassSites
from waypoint_parity.harness.record.selection import Selection

SESSION = {
    "units": 4,
    "passes": [
        PassSites("prompt", 0, [(0, 1)], ["input.prompt_emb"]),
        PassSites("denoise", 0, [(0, 4)], ["input.noise", "patchify", "latent"]),
        PassSites("denoise", 12, [(0, 4)], ["latent"]),
        PassSites("decode", 0, [(0, 4)], ["frame"]),
    ],
    "expected": 21,
}


def test_every_site_is_expected_once_in_each_unit_that_has_its_step() -> None:
    assert expected_observations(manifest(**SESSION), manifest(**SESSION)) == {
        ("prompt", 0, "input.prompt_emb", ""): 1,
        ("denoise", 0, "input.noise", ""): 4,
        ("denoise", 0, "patchify", ""): 4,
        ("denoise", 0, "latent", ""): 4,
        ("denoise", 12, "latent", ""): 4,
        ("decode", 0, "frame", ""): 4,
    }


def test_of_two_selections_only_that_is_expected_which_both_took_and_the_inputs() -> None:
    reference = manifest(**SESSION, selection=Selection(sites=("latent", "patchify"), every=2))
    first = Selection(sites=("lat*",), units=(0, 1, 2), steps=(0,), stepped=("denoise",))
    assert expected_observations(reference, manifest(**SESSION, selection=first)) == {
        ("prompt", 0, "input.prompt_emb", ""): 1,
        ("denoise", 0, "input.noise", ""): 4,
        ("denoise", 0, "latent", ""): 2,
    }


def test_a_step_that_some_units_have_and_some_do_otherwise_is_expected_where_it_is() -> None:
    """Some units skip a step, and every other one shows a site more; each branch is a rung of its own."""
    passes = [
        PassSites("denoise", 0, [(0, 2), (4, 5)], ["velocity@cond", "velocity@uncond"]),
        PassSites("denoise", 0, [(2, 4)], ["velocity@cond"]),
    ]
    session = manifest(units=5, passes=passes)
    assert expected_observations(session, session) == {
        ("denoise", 0, "velocity", "cond"): 5,
        ("denoise", 0, "velocity", "uncond"): 3,
    }
    halved = manifest(units=5, passes=passes, selection=Selection(units=(1, 2, 4)))
    assert expected_observations(session, halved)["denoise", 0, "velocity", "uncond"] == 2  # type: ignore[index]


def test_an_optional_site_that_the_candidate_does_without_is_not_expected() -> None:
    visible = "kv_cache.layers.0.visible"
    sides = [
        manifest(units=1, passes=[PassSites("denoise", 0, [(0, 1)], ["latent", *more])]) for more in ([visible], [])
    ]
    assert expected_observations(*sides) == {("denoise", 0, "latent", ""): 1}
    assert ("denoise", 0, visible, "") in expected_observations(sides[0], sides[0])  # type: ignore[operator]


def test_without_the_passes_only_the_number_is_known_and_nothing_for_unlike_selections() -> None:
    bare = manifest(expected=21)
    assert expected_observations(bare, bare) == 21
    assert expected_observations(bare, manifest(expected=9, selection=Selection(every=2))) == 0
