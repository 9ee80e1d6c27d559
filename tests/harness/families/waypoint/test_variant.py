import dataclasses

import pytest
import torch

from waypoint_parity.fixtures.tiny import transformer_config
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.levels import PromptMask
from waypoint_parity.harness.families.waypoint.make_scenario import draw_noise
from waypoint_parity.harness.families.waypoint.variant import Variant, parse_schedule
from waypoint_parity.harness.run.scenario import Scenario

CONFIG = transformer_config()


def test_the_plain_variant_changes_nothing_but_the_name(tiny_scenario: Scenario) -> None:
    applied = Variant().apply(tiny_scenario, CONFIG)
    assert applied.digest == tiny_scenario.digest
    assert applied.name == "short/checkpoint"


def test_a_name_says_what_differs() -> None:
    assert Variant("single-step", 12, "zeroed").name == "single-step_seed12_zeroed-padding"


def test_a_schedule_is_known_by_name_or_by_its_sigmas(tiny_scenario: Scenario) -> None:
    assert parse_schedule("three-step") == (1.0, 0.94921875, 0.83984375, 0.0)
    assert parse_schedule("1.0,0.25,0") == (1.0, 0.25, 0.0)
    assert Variant("single-step").apply(tiny_scenario, CONFIG).schedule(CONFIG).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("text", ["four-step", "", "1.0;0.0", "1.0,,0"])
def test_a_schedule_that_is_neither_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown sigma schedule"):
        parse_schedule(text)


@pytest.mark.parametrize("policy", ["per-frame", "global", "sliced"])
def test_a_seed_draws_new_noise_under_the_scenarios_policy(tiny_scenario: Scenario, policy: str) -> None:
    recorded = dataclasses.replace(tiny_scenario, noise_policy=policy)
    applied = Variant(seed=7).apply(recorded, CONFIG)
    assert applied.noise.equal(draw_noise(CONFIG.latent_shape, 2, 7, policy))  # type: ignore[arg-type]
    assert (applied.seed, applied.noise_policy) == (7, policy)


def test_a_policy_draws_the_scenarios_seed_anew(tiny_scenario: Scenario) -> None:
    config = transformer_config()
    applied = Variant(noise_policy="global").apply(tiny_scenario, config)
    assert (applied.seed, applied.noise_policy) == (tiny_scenario.seed, "global")
    assert torch.equal(
        applied.noise, draw_noise(config.latent_shape, tiny_scenario.frames, tiny_scenario.seed, "global")
    )
    assert not torch.equal(applied.noise, tiny_scenario.noise)
    assert applied.name.endswith("/checkpoint_global-noise")


def test_a_seed_of_a_scenario_of_unknown_policy_draws_per_frame(tiny_scenario: Scenario) -> None:
    applied = Variant(seed=7).apply(dataclasses.replace(tiny_scenario, noise_policy="by hand"), CONFIG)
    assert applied.noise.equal(draw_noise(CONFIG.latent_shape, 2, 7, "per-frame"))


def masked(scenario: Scenario, mask: PromptMask) -> tuple[torch.Tensor, list[bool]]:
    applied = Variant(prompt_mask=mask).apply(scenario, CONFIG)
    applied.check(CONFIG)
    assert applied.prompt is not None
    return applied.prompt.embedding[0], applied.prompt.pad_mask[0].tolist()


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


@pytest.mark.parametrize("tokens", [2, 3, 8])
def test_a_prompt_without_padding_counts_its_last_quarter_as_padding(tiny_scenario: Scenario, tokens: int) -> None:
    whole = dataclasses.replace(
        tiny_scenario,
        prompt_emb=torch.ones(1, tokens, 32),
        prompt_pad_mask=torch.zeros(1, tokens, dtype=torch.bool),
    )
    embedding, padding = masked(whole, "zeroed")
    assert sum(padding) == max(1, tokens // 4)
    assert embedding.any(1).tolist() == [not padded for padded in padding]


@pytest.mark.parametrize("mask", ["none", "zeroed", "unzeroed"])
def test_a_prompt_of_one_token_cannot_be_padded(tiny_scenario: Scenario, mask: PromptMask) -> None:
    short = dataclasses.replace(
        tiny_scenario, prompt_emb=torch.ones(1, 1, 32), prompt_pad_mask=torch.zeros(1, 1, dtype=torch.bool)
    )
    with pytest.raises(UserError, match="too short to be padded"):
        Variant(prompt_mask=mask).apply(short, CONFIG)


def test_a_mask_for_a_scenario_without_a_prompt_is_refused(tiny_scenario: Scenario) -> None:
    bare = dataclasses.replace(tiny_scenario, prompt_emb=None, prompt_pad_mask=None)
    with pytest.raises(UserError, match="has no prompt to mask"):
        Variant(prompt_mask="zeroed").apply(bare, CONFIG)
