import math

from tests.harness.observations import JUDGEMENT, SAME, key, off_by
from waypoint_parity.harness.judge.growth import Growth
from waypoint_parity.harness.run.keys import Key


def test_every_frame_has_the_error_of_its_last_latent_and_what_noise_may_grow_to() -> None:
    growth = Growth(JUDGEMENT.bounds)
    for frame, errors in enumerate([(1e-7, 2e-7), (3e-7, 4e-7)]):
        for step, error in enumerate(errors):
            growth.add(key("velocity", frame, step), off_by(1.0))
            growth.add(key("latent", frame, step), off_by(error))
    growth.add(Key(2, "image", 0, "latent"), SAME)
    assert [(at.frame, at.rel_l2, at.tolerance) for at in growth.frames] == [(0, 2e-7, 1e-5), (1, 4e-7, 1e-5)]


def test_a_latent_without_a_distance_has_none() -> None:
    growth = Growth(JUDGEMENT.bounds)
    growth.add(key("latent"), off_by(math.inf))
    assert growth.frames[0].rel_l2 is None


def test_growth_is_told_alike_in_whatever_parts_and_order_the_errors_come() -> None:
    parts = Growth(JUDGEMENT.bounds), Growth(JUDGEMENT.bounds)
    parts[0].add(key("latent", 1, 1), off_by(4e-7))
    parts[0].add(key("latent", 1, 0), off_by(3e-7))
    parts[1].add(key("latent", 1, 0), off_by(5e-7))
    parts[1].add(key("latent", 0, 1), off_by(2e-7))
    whole = Growth(JUDGEMENT.bounds)
    for part in parts:
        whole.merge(part)
    assert [(at.frame, at.rel_l2) for at in whole.frames] == [(0, 2e-7), (1, 4e-7)]
