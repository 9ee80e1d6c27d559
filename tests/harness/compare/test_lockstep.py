from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from tests.harness.observations import key, normal
from waypoint_parity.harness.compare.join import CANDIDATE, OTHER, REFERENCE, SIDES, SideName
from waypoint_parity.harness.compare.lockstep import TensorJoin
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.run.taps import Observation


@dataclass
class Kept:
    """A taker that keeps what it is handed."""

    pairs: list[tuple[int, Key, Tensor, Tensor]] = field(default_factory=list)
    lacked: list[tuple[int, Key, str, bool]] = field(default_factory=list)
    shown: list[tuple[str, Key]] = field(default_factory=list)

    def seen(self, side: SideName, seen: Observation) -> None:
        self.shown.append((side, seen.key))

    def pair(self, order: int, at: Key, actual: Tensor, expected: Tensor) -> None:
        self.pairs.append((order, at, actual.clone(), expected.clone()))

    def missing(self, order: int, at: Key, *, lacking: SideName, seen_elsewhere: bool) -> None:
        self.lacked.append((order, at, lacking, seen_elsewhere))


TENSORS = {REFERENCE: normal(4), CANDIDATE: normal(4, seed=1)}


def show(join: TensorJoin, side: SideName, at: Key) -> None:
    """Show a tensor that is overwritten right behind."""
    tensor = TENSORS[side].clone()
    join.show(side, Observation(at, None, tensor))
    tensor.zero_()


@pytest.mark.parametrize("first", SIDES)
def test_a_tensor_is_kept_until_its_partner_comes_and_no_longer(first: SideName) -> None:
    kept = Kept()
    join = TensorJoin({"latent"}, kept)
    show(join, first, key("latent"))
    assert len(join.waiting[first]) == 1
    show(join, OTHER[first], key("latent"))
    assert join.waiting == {REFERENCE: {}, CANDIDATE: {}}
    ((_, at, actual, expected),) = kept.pairs
    assert at == key("latent")
    assert torch.equal(actual, TENSORS[CANDIDATE])
    assert torch.equal(expected, TENSORS[REFERENCE])
    assert kept.shown == [(first, key("latent")), (OTHER[first], key("latent"))]


def test_pairs_are_in_the_order_of_the_reference() -> None:
    kept = Kept()
    join = TensorJoin({"patchify", "latent"}, kept)
    for side, site in [(REFERENCE, "patchify"), (REFERENCE, "latent"), (CANDIDATE, "latent"), (CANDIDATE, "patchify")]:
        show(join, side, key(site))
    assert [(order, at.site) for order, at, *_ in kept.pairs] == [(1, "latent"), (0, "patchify")]


@pytest.mark.parametrize("side", SIDES)
def test_a_tensor_of_a_site_that_one_side_has_is_not_kept(side: SideName) -> None:
    kept = Kept()
    join = TensorJoin({"latent"}, kept)
    show(join, side, key("out_norm"))
    assert join.waiting[side] == {}
    assert kept.lacked == [(0, key("out_norm"), OTHER[side], False)]


@pytest.mark.parametrize("side", SIDES)
def test_what_waits_at_the_end_has_no_partner(side: SideName) -> None:
    kept = Kept()
    join = TensorJoin({"latent", "velocity"}, kept)
    for each in SIDES:
        show(join, each, key("latent"))
    show(join, side, key("latent", unit=1))
    show(join, side, key("velocity"))
    join.close()
    found = [(at, lacking, seen_elsewhere) for _, at, lacking, seen_elsewhere in kept.lacked]
    assert found == [(key("latent", unit=1), OTHER[side], True), (key("velocity"), OTHER[side], False)]
