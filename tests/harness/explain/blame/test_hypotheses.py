"""Mistakes made in the reference on purpose: proven where they give the candidate's values, struck off where not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.harness.explain.blame import candidates
from tests.harness.explain.blame.conftest import Cases
from waypoint_parity.fixtures.faults.attention import causal_in_frame
from waypoint_parity.fixtures.faults.conditioning import cosine_first
from waypoint_parity.fixtures.faults.rope import exchanged_axes, no_norm
from waypoint_parity.fixtures.faults.unseen import one_bias, one_plus_the_gate, waves_end_early
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.hypotheses import hypothesis_called
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.runs import EvidenceRun, evidence_run, local_run
from waypoint_parity.reference.eager.hypotheses import MISTAKES

Change = Callable[[Any], None]
HALVES = "sines and cosines in another order"


@pytest.fixture(scope="module")
def found(case: Cases, noise: Noise) -> Callable[..., EvidenceRun]:
    """What is proven of a candidate with changes, and what is refuted."""

    def evidence(*changes: Change, is_over: Callable[[], bool] = lambda: False) -> EvidenceRun:
        made = case(*changes)
        return evidence_run(made, noise, [], local_run(made, noise, []).findings, is_over)

    return evidence


def proven(run: EvidenceRun, part: str, by: str = "hypothesis") -> list[str]:
    return [proof.statement for proof in run.proofs.get(part, []) if proof.by == by]


@pytest.mark.parametrize(
    ("change", "part", "kind"),
    [
        (cosine_first, "noise conditioner", HALVES),
        (exchanged_axes, "rotation", "x and y axes of the rotation exchanged"),
        (causal_in_frame, "attention", "causal mask among the tokens of one frame"),
    ],
)
def test_the_mistake_that_gives_the_same_values_is_proven_and_no_other_one(
    found: Callable[..., EvidenceRun], change: Change, part: str, kind: str
) -> None:
    run = found(change)
    (statement,) = proven(run, part)
    assert statement.startswith(kind)
    assert len(run.refuted[part]) > 2
    assert not any(statement.startswith(refuted) for refuted in run.refuted[part])
    (proof,) = [proof for proof in run.proofs[part] if proof.by == "hypothesis"]
    assert proof.before > 1e-2 > 1e-5 > proof.after


def test_it_is_proven_beside_a_mistake_in_another_part(found: Callable[..., EvidenceRun]) -> None:
    run = found(cosine_first, no_norm)
    assert proven(run, "noise conditioner")[0].startswith(HALVES)
    assert proven(run, "rotation")[0].startswith("queries and keys not normed")


def test_two_mistakes_in_one_part_are_neither_of_them(found: Callable[..., EvidenceRun]) -> None:
    def both(adapter: Any) -> None:
        cosine_first(adapter)
        adapter.engine.model.noise_conditioner.mlp.register_forward_hook(lambda module, inputs, x: 1.5 * x)

    run = found(both)
    assert proven(run, "noise conditioner") == []
    assert HALVES in run.refuted["noise conditioner"]


def test_a_mistake_that_is_alike_at_the_first_site_alone_is_not_proven(found: Callable[..., EvidenceRun]) -> None:
    # In block 1 the bias of the block before is that of the first block too.
    (statement,) = proven(found(one_bias), "conditioning heads")
    assert "first block" in statement


@pytest.mark.slow
def test_one_mistake_is_proven_at_every_branch_that_reads_its_sum(found: Callable[..., EvidenceRun]) -> None:
    run = found(one_plus_the_gate)
    statements = {part: proven(run, part) for part in ("prompt attention", "control fusion", "mlp", "residual")}
    (common,) = {tuple(each) for each in statements.values()}
    assert len(common) == 1
    assert "1 + g" in common[0]


@pytest.mark.slow
def test_what_comes_near_is_neither_proven_nor_refuted(found: Callable[..., EvidenceRun]) -> None:
    def nearly(adapter: Any) -> None:
        waves_end_early(adapter)
        adapter.engine.model.noise_conditioner.register_forward_hook(lambda module, inputs, x: x * (1 + 1e-4))

    run = found(nearly)
    assert proven(run, "noise conditioner") == []
    assert HALVES in run.refuted["noise conditioner"]
    assert "another table of frequencies" not in run.refuted["noise conditioner"]


def test_what_no_mistake_gives_has_the_relation_that_holds(found: Callable[..., EvidenceRun]) -> None:
    def flipped(adapter: Any) -> None:
        def hook(module: object, inputs: object, x: Tensor) -> Tensor:
            return x.flip(-1)

        adapter.sites()["denoise_step_emb"].module.register_forward_hook(hook)

    run = found(flipped)
    assert proven(run, "noise conditioner") == []
    assert any("reversed" in each for each in proven(run, "noise conditioner", "relation"))


def test_once_the_time_is_over_none_is_tried(found: Callable[..., EvidenceRun]) -> None:
    run = found(cosine_first, is_over=lambda: True)
    assert proven(run, "noise conditioner") == []
    assert run.refuted["noise conditioner"] == []


def test_every_mistake_is_called_after_a_kind_of_fault(case: Cases) -> None:
    kinds = {kind.kind for kind in case().family.kinds}
    assert {mistake.kind for mistake in MISTAKES} <= kinds
    assert len({(mistake.kind, mistake.said, mistake.parts) for mistake in MISTAKES}) == len(MISTAKES)


def test_a_mistake_of_ones_own_is_tried(case: Cases, noise: Noise, tmp_path: Path) -> None:
    (tmp_path / "guess.py").write_text(
        "def louder(adapter):\n"
        "    module = adapter.sites()['transformer.blocks.1.mlp'].module\n"
        "    module.register_forward_hook(lambda module, inputs, x: x * 1.05)\n"
    )
    own = hypothesis_called(f"{tmp_path / 'guess.py'}:louder")
    made = replace(case(candidates.louder), own=(own,))
    run = evidence_run(made, noise, [], local_run(made, noise, []).findings)
    assert proven(run, "mlp")[0].startswith(own.kind)
    with pytest.raises(UserError):
        hypothesis_called(f"{tmp_path / 'guess.py'}:quieter")
