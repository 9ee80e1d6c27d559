from typing import Any

import pytest

from harness.contract import broken_contract
from tests.harness.observations import manifest


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"checkpoint_digest": "another"}, "checkpoint"),
        ({"scenario_digest": "another"}, "scenario"),
        ({"numerics": {"dtype": "bf16"}}, "dtype"),
        ({"sigmas": [1.0, 0.0]}, "sigmas"),
    ],
)
def test_runs_that_were_asked_different_questions_are_incomparable(changes: dict[str, Any], name: str) -> None:
    reason = broken_contract(manifest(**changes), manifest())
    assert reason is not None
    assert reason.startswith(f"{name} differs: candidate ")


@pytest.mark.parametrize(
    "changes",
    [
        {"implementation": "candidate"},
        {"scenario_name": "another name"},
        {"checkpoint_origin": "elsewhere"},
        {"threads": 8, "platform": "another", "torch": "2.12.0"},
        {"numerics": {"dtype": "fp32", "device": "cuda", "compiled": "true"}},
    ],
    ids=str,
)
def test_what_two_right_runs_may_differ_in_breaks_no_contract(changes: dict[str, Any]) -> None:
    assert broken_contract(manifest(**changes), manifest()) is None


@pytest.mark.parametrize("changes", [{"scenario_digest": "another"}, {"sigmas": [1.0, 0.0]}])
def test_inputs_may_differ_where_some_were_accepted(changes: dict[str, Any]) -> None:
    """Which of them differ, and whether those were named, is then told by the input records."""
    assert broken_contract(manifest(**changes), manifest(), ["noise"]) is None


@pytest.mark.parametrize("changes", [{"checkpoint_digest": "another"}, {"numerics": {"dtype": "bf16"}}])
def test_no_accepted_input_excuses_another_model_or_another_precision(changes: dict[str, Any]) -> None:
    assert broken_contract(manifest(**changes), manifest(), ["noise"]) is not None
