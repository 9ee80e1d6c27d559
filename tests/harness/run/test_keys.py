import pytest

from waypoint_parity.harness.run.keys import At, Key, Order, Rung, block_of, is_input, last_name

PLANNED = [
    At(0, "prepare", 0),
    *(At(unit, *rest) for unit in range(2) for rest in (("denoise", 0), ("denoise", 1), ("decode", 0))),
]


def ranked(*steps: At, planned: list[At] = PLANNED) -> list[At]:
    """The planned steps and some others in their order."""
    return sorted([*steps, *planned[::-1]], key=Order(planned).rank)


def after(step: At, *, of: list[At]) -> At:
    """The step that comes before another in an order."""
    return of[of.index(step) - 1]


def test_a_key_is_written_as_the_name_of_its_tensor() -> None:
    assert str(Key(3, "denoise", 1, "out_norm")) == "u3/denoise1/out_norm"
    assert str(Key(0, "cache", 0, "patchify", call=2)) == "u0/cache0/patchify#2"
    assert str(Key(1, "denoise", 0, "velocity", "cond", 1)) == "u1/denoise0/velocity@cond#1"


@pytest.mark.parametrize(
    "key",
    [
        Key(3, "denoise", 1, "out_norm"),
        Key(0, "cache", 12, "transformer.blocks.3.attn", call=2),
        Key(1, "denoise", 0, "velocity", "cond", 1),
        Key(1, "refine2x", 0, "velocity", "cond"),
    ],
    ids=str,
)
def test_a_key_is_read_back_from_the_name_of_its_tensor(key: Key) -> None:
    assert Key.parse(str(key)) == key
    assert Key.parse(f"f{str(key)[1:]}") == key


@pytest.mark.parametrize("name", ["", "latent", "u0/latent", "u0/denoise/latent", "x0/denoise0/latent", "u0/denoise0/"])
def test_a_name_that_is_no_key_s_is_none(name: str) -> None:
    assert Key.parse(name) is None


def test_a_site_is_called_by_the_last_part_of_its_name_that_is_no_number() -> None:
    assert [last_name(site) for site in ("transformer.blocks.3", "layers.0.attn.q_proj", "latent")] == [
        "blocks",
        "q_proj",
        "latent",
    ]


def test_a_key_says_in_which_step_and_on_which_rung_it_is() -> None:
    key = Key(3, "denoise", 1, "velocity", "cond", 2)
    assert key.at == At(3, "denoise", 1)
    assert key.rung == Rung("denoise", 1, "velocity", "cond")
    assert Key(3, *key.rung) == key._replace(call=0)


@pytest.mark.parametrize(
    ("site", "block"),
    [
        ("transformer.blocks.3.attn.q_proj", 3),
        ("transformer.blocks.12", 12),
        ("kv_cache.layers.0.kv", 0),
        ("decoder.residuals.2", 2),
        ("velocity", None),
    ],
)
def test_a_site_belongs_to_the_block_in_its_name(site: str, block: int | None) -> None:
    assert block_of(site) == block


def test_inputs_are_told_from_what_is_computed() -> None:
    assert is_input("input.noise")
    assert not is_input("encoder.conv_in")


def test_planned_steps_are_ranked_as_they_are_planned() -> None:
    assert ranked() == PLANNED


def test_phases_may_come_in_any_order_and_come_again() -> None:
    """A refiner that runs after the decoder, or every second unit without one of its phases."""
    planned = [At(0, "z", 0), At(0, "a", 0), At(1, "a", 0), At(1, "z", 0), At(2, "a", 0)]
    assert ranked(planned=planned) == planned


def test_a_step_planned_twice_has_the_place_of_the_first() -> None:
    planned = [At(0, "denoise", 0), At(0, "denoise", 1), At(0, "denoise", 0)]
    assert sorted(planned[1:], key=Order(planned).rank) == planned[:2]


def test_a_step_beyond_the_schedule_comes_after_those_of_its_unit_and_phase() -> None:
    third, fourth = At(0, "denoise", 2), At(0, "denoise", 3)
    found = ranked(fourth, third)
    assert [after(step, of=found) for step in (third, fourth, At(0, "decode", 0))] == [
        At(0, "denoise", 1),
        third,
        fourth,
    ]


def test_an_unplanned_phase_comes_at_the_end_of_its_unit() -> None:
    found = ranked(At(0, "refine", 0), At(0, "refine", 1), At(0, "audio", 0))
    assert found[found.index(At(0, "decode", 0)) :][:5] == [
        At(0, "decode", 0),
        At(0, "audio", 0),
        At(0, "refine", 0),
        At(0, "refine", 1),
        At(1, "denoise", 0),
    ]


def test_an_unplanned_phase_comes_behind_what_its_session_ran_before_it() -> None:
    order, judge = Order(PLANNED), At(0, "judge", 0)
    step, following = At(0, "denoise", 0), At(0, "denoise", 1)
    assert order.rank(step) < order.rank(judge, behind=step) < order.rank(following) < order.rank(judge)
    assert judge not in order
    assert step in order


def test_units_beyond_the_planned_ones_come_last_unit_after_unit() -> None:
    beyond = [At(unit, phase, 0) for unit in (2, 3) for phase in ("decode", "denoise")]
    assert ranked(*beyond[::-1])[-4:] == beyond


def test_without_a_plan_steps_are_ranked_by_unit_phase_and_step() -> None:
    steps = [At(0, "a", 0), At(0, "a", 1), At(0, "b", 0), At(1, "a", 0)]
    assert ranked(*steps[::-1], planned=[]) == steps
