import math
from itertools import count

from tests.harness.observations import JUDGEMENT, key, off_by
from waypoint_parity.harness.judge.growth import Growth
from waypoint_parity.harness.run.keys import Key


def test_every_unit_has_the_error_of_its_last_latent_and_what_noise_may_grow_to() -> None:
    growth, order = Growth(JUDGEMENT.bounds), count()
    for unit, errors in enumerate([(1e-7, 2e-7), (3e-7, 4e-7)]):
        for step, error in enumerate(errors):
            growth.add(next(order), key("latent", unit, step), off_by(error))
    assert [(at.unit, at.rel_l2, at.tolerance) for at in growth.units] == [(0, 2e-7, 1e-5), (1, 4e-7, 1e-5)]


def test_the_last_latent_is_the_last_in_the_execution_whatever_its_phase_is_called() -> None:
    growth = Growth(JUDGEMENT.bounds)
    growth.add(7, Key(0, "base", 0, "latent"), off_by(2e-7))
    growth.add(3, Key(0, "denoise", 5, "latent"), off_by(1e-7))
    assert [at.rel_l2 for at in growth.units] == [2e-7]


def test_a_latent_without_a_distance_has_none() -> None:
    growth = Growth(JUDGEMENT.bounds)
    growth.add(0, key("latent"), off_by(math.inf))
    assert growth.units[0].rel_l2 is None


def test_growth_is_told_alike_in_whatever_parts_and_order_the_errors_come() -> None:
    """Each part counts from its own beginning."""
    parts = Growth(JUDGEMENT.bounds), Growth(JUDGEMENT.bounds)
    parts[0].add(1, key("latent", 0, 1), off_by(2e-7))
    parts[0].add(0, key("latent", 0, 0), off_by(5e-7))
    parts[0].add(2, key("latent", 1, 0), off_by(3e-7))
    parts[1].add(0, key("latent", 1, 1), off_by(4e-7))
    for first, second in (parts, parts[::-1]):
        whole = Growth(JUDGEMENT.bounds)
        whole.merge(first, 0 if first is parts[0] else 3)
        whole.merge(second, 0 if second is parts[0] else 3)
        assert [(at.unit, at.rel_l2) for at in whole.units] == [(0, 2e-7), (1, 4e-7)]
