"""Sessions kept in step: announced, run, and told where one side has a step that the other has not."""

from collections.abc import Iterator

import pytest
import torch

from tests.harness.observations import Seen
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import session_passes
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.keys import At, Key, Order
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import (
    Paced,
    counting,
    exact_arithmetic,
    expected_keys,
    keep_pace,
    order_of,
    passes,
    run,
    steps,
)
from waypoint_parity.harness.run.sites import Kind, SiteRow, SiteTable
from waypoint_parity.harness.run.taps import recording

Ran = list[tuple[str, At]]
Announced = Iterator[tuple[int, Pass]]


def session(name: str, ran: Ran, *, steps: int = 2, frames: int = 1, prompt: bool = True) -> Announced:
    """A session that says which passes it has run."""
    return telling(name, ran, session_passes(steps, frames, prompt=prompt, image=False))


def telling(name: str, ran: Ran, announced: Announced) -> Announced:
    for unit, at in announced:
        yield unit, at
        ran.append((name, at.at(unit)))


def planned(*, steps: int = 2, frames: int = 2, prompt: bool = True) -> Order:
    return Order(at.at(unit) for unit, at in session_passes(steps, frames, prompt=prompt, image=False))


def side_by_side(*sessions: Announced, order: Order | None = None) -> list[tuple[At, list[int]]]:
    """The steps that only some of the sessions have, once all are kept in step."""
    alone: list[tuple[At, list[int]]] = []
    keep_pace([Paced(each) for each in sessions], order or planned(), lambda at, those: alone.append((at, those)))
    return alone


def test_a_step_is_announced_before_it_runs_and_runs_when_it_is_told_to() -> None:
    ran: Ran = []
    paced = Paced(session("one", ran))
    assert (paced.at, ran) == (At(0, "prompt", 0), [])
    paced.run()
    assert (paced.at, ran) == (At(0, "denoise", 0), [("one", At(0, "prompt", 0))])
    while paced.at is not None:
        paced.run()
    assert [at for _, at in ran[-3:]] == [At(0, "denoise", 1), At(0, "cache", 0), At(0, "decode", 0)]


def test_a_session_of_nothing_has_no_step() -> None:
    paced = Paced(iter(()))
    paced.run()
    assert paced.at is None
    assert side_by_side(iter(()), iter(())) == []


def test_each_step_of_the_first_session_runs_just_before_the_same_step_of_the_next() -> None:
    ran: Ran = []
    names = ["truth", "reference", "candidate"]
    assert side_by_side(*(session(name, ran, frames=2) for name in names)) == []
    assert [name for name, _ in ran] == names * 9
    assert [at for _, at in ran[::3]] == [at for _, at in ran[1::3]] == [at for _, at in ran[2::3]]


def test_a_step_that_one_session_has_more_is_told_with_its_side_and_the_rest_stays_aligned() -> None:
    for more, index in (((3, 2), 0), ((2, 3), 1)):
        ran: Ran = []
        sessions = [session(str(number), ran, steps=more[number], frames=2) for number in range(2)]
        assert side_by_side(*sessions) == [(At(unit, "denoise", 2), [index]) for unit in range(2)]
        shared = [entry for entry in ran if entry[1][1:] != ("denoise", 2)]
        assert [name for name, _ in shared] == ["0", "1"] * 9
        assert [at for _, at in shared[::2]] == [at for _, at in shared[1::2]]


def test_of_three_sessions_those_that_have_a_step_are_told_together() -> None:
    ran: Ran = []
    alone = side_by_side(*(session(str(more), ran, steps=more) for more in (3, 2, 3)))
    assert alone == [(At(0, "denoise", 2), [0, 2])]


def test_a_session_that_begins_earlier_or_ends_later_is_told_too() -> None:
    ran: Ran = []
    alone = side_by_side(session("0", ran, frames=2), session("1", ran, prompt=False))
    beyond = [At(1, "denoise", 0), At(1, "denoise", 1), At(1, "cache", 0), At(1, "decode", 0)]
    assert alone == [(at, [0]) for at in (At(0, "prompt", 0), *beyond)]


def test_a_session_that_goes_on_beyond_the_plan_is_run_to_its_end() -> None:
    ran: Ran = []
    alone = side_by_side(session("0", ran, frames=1), session("1", ran, frames=3), order=planned(frames=1))
    assert [at for at, _ in alone] == [at for name, at in ran if name == "1" and at.unit]
    assert len(alone) == 8


def test_a_phase_that_nobody_planned_is_run_alone_and_the_rest_stays_aligned() -> None:
    def refined() -> Announced:
        for unit, at in session_passes(2, 2, prompt=True, image=False):
            yield unit, at
            if at.phase == "decode":
                yield unit, Pass("refine")

    ran: Ran = []
    alone = side_by_side(session("0", ran, frames=2), telling("1", ran, refined()))
    assert alone == [(At(unit, "refine", 0), [1]) for unit in range(2)]
    assert [name for name, at in ran if at.phase != "refine"] == ["0", "1"] * 9


@pytest.mark.parametrize("before", ["denoise", "cache", "decode"])
def test_a_phase_that_nobody_planned_is_run_where_its_session_has_it(before: str) -> None:
    """As where a port reads its prompt for every frame anew. The steps that both have stay together."""

    def judged() -> Announced:
        for unit, at in session_passes(2, 2, prompt=True, image=False):
            if at.phase == before and at.step == 0:
                yield unit, Pass("judge")
            yield unit, at

    ran: Ran = []
    alone = side_by_side(session("0", ran, frames=2), telling("1", ran, judged()))
    assert alone == [(At(unit, "judge", 0), [1]) for unit in range(2)]
    assert [name for name, at in ran if at.phase != "judge"] == ["0", "1"] * 9


def test_a_phase_that_nobody_planned_and_both_have_is_run_together() -> None:
    def judged() -> Announced:
        for unit, at in session_passes(2, 2, prompt=True, image=False):
            if at.phase == "cache":
                yield unit, Pass("judge")
            yield unit, at

    ran: Ran = []
    assert side_by_side(telling("0", ran, judged()), telling("1", ran, judged())) == []
    assert [name for name, _ in ran] == ["0", "1"] * 11


def test_a_session_that_leaves_out_a_step_stays_with_the_other_beyond_the_schedule() -> None:
    def jumping(*numbers: int) -> Announced:
        yield from ((0, Pass("denoise", number)) for number in numbers)
        yield 0, Pass("decode")

    ran: Ran = []
    order = Order([At(0, "denoise", 0), At(0, "denoise", 1), At(0, "decode", 0)])
    alone = side_by_side(telling("0", ran, jumping(0, 1, 2)), telling("1", ran, jumping(0, 2)), order=order)
    assert alone == [(At(0, "denoise", 1), [0])]


def guided(branches: tuple[tuple[str, ...], ...]) -> Announced:
    """A session of two steps, each of so many passes."""
    for step in range(2):
        yield from ((0, Pass("denoise", step, 1.0, those)) for those in branches)
    yield 0, Pass("decode")


def test_a_step_is_run_as_a_whole_in_whatever_number_of_passes_a_side_evaluates_it() -> None:
    """One side evaluates both branches in one call, the other one after the other."""
    ran: Ran = []
    together, apart = guided((("cond", "uncond"),)), guided((("cond",), ("uncond",)))
    order = Order([At(0, "denoise", 0), At(0, "denoise", 1), At(0, "decode", 0)])
    assert side_by_side(telling("one", ran, together), telling("two", ran, apart), order=order) == []
    assert ran == [
        ("one", At(0, "denoise", 0)),
        ("two", At(0, "denoise", 0)),
        ("two", At(0, "denoise", 0)),
        ("one", At(0, "denoise", 1)),
        ("two", At(0, "denoise", 1)),
        ("two", At(0, "denoise", 1)),
        ("one", At(0, "decode", 0)),
        ("two", At(0, "decode", 0)),
    ]


def test_a_side_that_evaluates_branch_by_branch_over_all_steps_is_run_to_its_end() -> None:
    """Depth first: no step of one is any step of the other at that moment, and none is run twice."""
    ran: Ran = []
    depth = ((0, Pass("denoise", step, 1.0, (branch,))) for branch in ("cond", "uncond") for step in range(2))
    order = Order([At(0, "denoise", 0), At(0, "denoise", 1), At(0, "decode", 0)])
    side_by_side(telling("one", ran, guided((("cond", "uncond"),))), telling("two", ran, depth), order=order)
    assert [at.step for name, at in ran if name == "two"] == [0, 1, 0, 1]
    assert len(ran) == 7


def test_nobody_needs_to_be_told() -> None:
    ran: Ran = []
    keep_pace([Paced(session("0", ran)), Paced(session("1", ran, steps=3))], planned())
    assert len(ran) == 5 + 6


def test_the_steps_of_a_right_session_are_those_of_its_family_in_order(
    tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    found = steps(tiny_scenario, tiny)
    assert found == [at.at(unit) for unit, at in session_passes(2, 2, prompt=True, image=False)]
    assert sorted(set(found), key=order_of(tiny_scenario, tiny).rank) == found


def test_every_position_of_our_own_sites_counts(tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    assert counting(tiny_scenario, tiny)(Key(0, "prompt", 0, "input.prompt_emb")) is None


def test_a_session_is_given_what_it_leaves_to_the_checkpoint(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    assert tiny_scenario.get("sigmas") is None
    seen, adapter = Seen(), load("eager", tiny, fp32_on_cpu)
    with recording({"input.sigma": adapter.sites()["input.sigma"]}, seen) as taps:
        run(adapter, tiny_scenario, tiny, taps)
    sigmas = [float(each.tensor) for each in seen.observations if each.key.phase == "denoise"]
    assert sigmas == [1.0, 0.5] * tiny_scenario.units


def test_passes_are_announced_to_the_watcher_before_they_are_yielded(
    tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    class Watching:
        def __init__(self) -> None:
            self.begun: list[At] = []

        def begin(self, unit: int, at: Pass) -> None:
            self.begun.append(at.at(unit))

    watching = Watching()
    with exact_arithmetic():
        for unit, at in passes(load("eager", tiny, fp32_on_cpu), tiny_scenario, tiny, watching):
            assert watching.begun[-1] == at.at(unit)
    assert watching.begun == steps(tiny_scenario, tiny)


def test_no_gradient_is_kept_and_no_mode_of_torch_is_changed() -> None:
    with exact_arithmetic():
        assert torch.is_inference_mode_enabled()
        assert not torch.backends.cudnn.allow_tf32
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


class _Guided:
    """The family of a model that evaluates two branches a step, as far as the keys of its session need it."""

    def __init__(self, branches: tuple[tuple[str, ...], ...]) -> None:
        self._branches = branches

    def table(self, geometry: object, scenario: object) -> SiteTable:
        return SiteTable(
            [
                SiteRow(name="input.noise", phases=("denoise",), part="noise", kind=Kind.INPUT, once=True),
                SiteRow(name="embed", phases=("denoise",), part="embedding"),
                SiteRow(name="velocity", phases=("denoise",), part="velocity", branched=True),
                SiteRow(name="score", phases=("denoise",), part="judge", optional=True),
                SiteRow(name="frame", phases=("decode",), part="decoder"),
            ]
        )

    def session(self, scenario: object, geometry: object) -> Announced:
        return guided(self._branches)


class _Checkpoint:
    geometry = None

    def __init__(self, *branches: tuple[str, ...]) -> None:
        self.family = _Guided(branches)


def keys(*branches: tuple[str, ...], scenario: Scenario, optional: tuple[str, ...] = ()) -> list[str]:
    checkpoint = _Checkpoint(*branches)
    return [str(key) for key in expected_keys(scenario, checkpoint, optional=optional)]  # type: ignore[arg-type]


@pytest.mark.parametrize("branches", [(("cond", "uncond"),), (("cond",), ("uncond",))], ids=["one call", "two calls"])
def test_what_all_branches_share_is_expected_once_and_what_each_shows_of_each(
    tiny_scenario: Scenario, branches: tuple[tuple[str, ...], ...]
) -> None:
    first = ["u0/denoise0/input.noise", "u0/denoise0/embed"]
    first += ["u0/denoise0/velocity@cond", "u0/denoise0/velocity@uncond"]
    second = [key.replace("denoise0", "denoise1") for key in first[1:]]
    assert keys(*branches, scenario=tiny_scenario) == [*first, *second, "u0/decode0/frame"]


def test_an_optional_site_is_expected_where_it_is_asked_for(tiny_scenario: Scenario) -> None:
    plain, all_of_it = (keys(("",), scenario=tiny_scenario, optional=optional) for optional in ((), ("score",)))
    assert [key for key in all_of_it if key not in plain] == ["u0/denoise0/score", "u0/denoise1/score"]


def test_the_branch_of_a_session_with_one_has_no_name(tiny_scenario: Scenario) -> None:
    assert keys(("",), scenario=tiny_scenario)[2] == Key(0, "denoise", 0, "velocity").__str__()
