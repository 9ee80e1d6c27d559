"""The order of a session, by what its manifest says of its passes."""

import random

from waypoint_parity.harness.compare.columns import Places
from waypoint_parity.harness.compare.execution import Execution
from waypoint_parity.harness.record.records import PassSites
from waypoint_parity.harness.run.keys import Key

PASSES = [
    PassSites("prompt", 0, [(0, 1)], ["input.prompt_emb"]),
    PassSites("denoise", 0, [(0, 3)], ["input.noise", "latent@cond", "latent@uncond"]),
    PassSites("denoise", 1, [(0, 3)], ["latent@cond"]),
    PassSites("decode", 0, [(0, 3)], ["frame"]),
]
IN_ORDER = [
    Key(0, "prompt", 0, "input.prompt_emb"),
    Key(0, "denoise", 0, "input.noise"),
    Key(0, "denoise", 0, "latent", "cond"),
    Key(0, "denoise", 0, "latent", "cond", 1),
    Key(0, "denoise", 0, "latent", "uncond"),
    Key(0, "denoise", 1, "latent", "cond"),
    Key(0, "decode", 0, "frame"),
    # No right implementation shows it: last in its unit.
    Key(0, "denoise", 0, "extra"),
    Key(1, "denoise", 0, "input.noise"),
    Key(1, "decode", 0, "frame"),
    Key(2, "denoise", 1, "latent", "cond"),
]


def test_observations_come_unit_by_unit_and_pass_by_pass() -> None:
    execution, drawn = Execution(PASSES), list(IN_ORDER)
    random.Random(1).shuffle(drawn)
    assert sorted(drawn, key=execution.of) == IN_ORDER


def test_many_at_once_have_the_same_order_also_with_places_that_are_new() -> None:
    execution, places = Execution(PASSES), Places()
    for keys in (IN_ORDER[3:6], IN_ORDER[::-1], IN_ORDER):
        assert execution.orders(places.codes(keys), places).tolist() == [execution.of(key) for key in keys]
