from dataclasses import replace

import pytest
import torch

from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.config import WaypointGeometry
from waypoint_parity.harness.families.waypoint.draws import draw_noise
from waypoint_parity.harness.families.waypoint.factors import parse_schedule
from waypoint_parity.harness.families.waypoint.family import FAMILY
from waypoint_parity.harness.families.waypoint.scenario import check, schedule
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.variant import Variant

CONFIG = transformer_config()
GEOMETRY = WaypointGeometry(CONFIG, autoencoder_config(CONFIG))


def applied(scenario: Scenario, **levels: str) -> Scenario:
    return Variant.of(levels).apply(scenario, GEOMETRY)


def test_the_plain_variant_changes_nothing_but_the_name(tiny_scenario: Scenario) -> None:
    plain = applied(tiny_scenario)
    assert plain.digest == tiny_scenario.digest
    assert plain.name == "short/checkpoint"


def test_a_name_says_what_differs() -> None:
    variant = Variant.of({"schedule": "single-step", "seed": "12", "mask": "zeroed"})
    assert variant.name(FAMILY) == "single-step_seed12_zeroed-padding"


def test_a_schedule_is_known_by_name_or_by_its_sigmas(tiny_scenario: Scenario) -> None:
    assert parse_schedule("three-step") == (1.0, 0.94921875, 0.83984375, 0.0)
    assert parse_schedule("1.0,0.25,0") == (1.0, 0.25, 0.0)
    assert schedule(applied(tiny_scenario, schedule="single-step"), CONFIG).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("text", ["four-step", "", "1.0;0.0", "1.0,,0"])
def test_a_schedule_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown sigma schedule"):
        parse_schedule(text)


@pytest.mark.parametrize("policy", ["per-frame", "global", "sliced"])
def test_a_seed_draws_new_noise_under_the_scenarios_policy(tiny_scenario: Scenario, policy: str) -> None:
    recorded = replace(tiny_scenario, labels={**tiny_scenario.labels, "noise_policy": policy})
    drawn = applied(recorded, seed="7")
    assert drawn["noise"].equal(draw_noise(CONFIG.latent_shape, 2, 7, policy))  # type: ignore[arg-type]
    assert (drawn.seed, drawn.labels["noise_policy"]) == (7, policy)


def test_a_policy_draws_the_scenarios_seed_anew(tiny_scenario: Scenario) -> None:
    drawn = applied(tiny_scenario, policy="global")
    assert (drawn.seed, drawn.labels["noise_policy"]) == (tiny_scenario.seed, "global")
    expected = draw_noise(CONFIG.latent_shape, tiny_scenario.units, tiny_scenario.seed, "global")
    assert drawn["noise"].equal(expected)
    assert not drawn["noise"].equal(tiny_scenario["noise"])
    assert drawn.name.endswith("/checkpoint_global-noise")


def test_a_seed_of_a_scenario_of_unknown_policy_draws_per_frame(tiny_scenario: Scenario) -> None:
    drawn = applied(replace(tiny_scenario, labels={"noise_policy": "by hand"}), seed="7")
    assert drawn["noise"].equal(draw_noise(CONFIG.latent_shape, 2, 7, "per-frame"))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"seed": "first"}, "no noise seed"),
        ({"policy": "by hand"}, "unknown noise policy"),
        ({"mask": "half"}, "unknown prompt mask"),
        ({"weather": "rain"}, "waypoint has no such factor"),
    ],
)
def test_a_level_or_a_factor_that_does_not_exist_is_refused(
    tiny_scenario: Scenario, levels: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        applied(tiny_scenario, **levels)


def masked(scenario: Scenario, mask: str) -> tuple[torch.Tensor, list[bool]]:
    given = applied(scenario, mask=mask)
    check(given, GEOMETRY)
    return given["prompt_emb"][0], given["prompt_pad_mask"][0].tolist()


def test_every_prompt_mask_is_what_it_is_called(tiny_scenario: Scenario) -> None:
    """The scenario's prompt has 6 tokens, of which the last 2 are padding."""
    padded = [False] * 4 + [True] * 2
    none, zeroed = masked(tiny_scenario, "none"), masked(tiny_scenario, "zeroed")
    unzeroed, everything = masked(tiny_scenario, "unzeroed"), masked(tiny_scenario, "all")
    assert (none[1], zeroed[1], unzeroed[1], everything[1]) == ([False] * 6, padded, padded, [True] * 6)
    assert not zeroed[0][4:].any()
    assert not everything[0].any()
    assert none[0][4:].all()
    assert unzeroed[0][4:].all()
    assert all(embedding[:4].equal(zeroed[0][:4]) for embedding in (none[0], unzeroed[0]))


def test_two_masks_never_give_an_implementation_the_same_embedding(tiny_scenario: Scenario) -> None:
    embeddings = [masked(tiny_scenario, mask)[0] for mask in ("none", "zeroed", "unzeroed", "all")]
    assert not any(a.equal(b) for a in embeddings for b in embeddings if a is not b)


def with_prompt(scenario: Scenario, tokens: int) -> Scenario:
    """The scenario with a prompt of ones, none of it padding."""
    unpadded = torch.zeros(1, tokens, dtype=torch.bool)
    return scenario.with_tensors(prompt_emb=torch.ones(1, tokens, 32), prompt_pad_mask=unpadded)


@pytest.mark.parametrize("tokens", [2, 3, 8])
def test_a_prompt_without_padding_counts_its_last_quarter_as_padding(tiny_scenario: Scenario, tokens: int) -> None:
    embedding, padding = masked(with_prompt(tiny_scenario, tokens), "zeroed")
    assert sum(padding) == max(1, tokens // 4)
    assert embedding.any(1).tolist() == [not padded for padded in padding]


@pytest.mark.parametrize("mask", ["none", "zeroed", "unzeroed"])
def test_a_prompt_of_one_token_cannot_be_padded(tiny_scenario: Scenario, mask: str) -> None:
    with pytest.raises(UserError, match="too short to be padded"):
        applied(with_prompt(tiny_scenario, 1), mask=mask)


def test_a_mask_for_a_scenario_without_a_prompt_is_refused(tiny_scenario: Scenario) -> None:
    bare = tiny_scenario.with_tensors(prompt_emb=None, prompt_pad_mask=None)
    with pytest.raises(UserError, match="has no prompt to mask"):
        applied(bare, mask="zeroed")


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        ({"none"}, "without padding"),
        ({"zeroed", "unzeroed"}, "with padding"),
        ({"zeroed"}, None),
        ({"none", "zeroed"}, None),
    ],
)
def test_a_sentence_says_of_masks_whether_there_is_padding(levels: set[str], said: str | None) -> None:
    mask = FAMILY.factors["mask"]
    assert mask.said(levels, {"none", "zeroed", "unzeroed"}) == said
    assert mask.said(levels, {"zeroed", "unzeroed"}) is None
