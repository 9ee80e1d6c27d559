import msgspec
import pytest

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.selection import EVERYTHING, Selection
from waypoint_parity.harness.run.keys import Key


def at(unit: int = 2, phase: str = "denoise", step: int = 1, site: str = "latent") -> Key:
    return Key(unit, phase, step, site)


def test_everything_is_taken_where_nothing_is_said() -> None:
    assert EVERYTHING.takes(at())
    assert Selection() == EVERYTHING


@pytest.mark.parametrize(
    ("sites", "taken"),
    [(("latent",), True), (("l*", "nothing"), True), (("velocity",), False), (("LATENT",), False)],
)
def test_a_site_is_taken_that_matches_a_glob(sites: tuple[str, ...], taken: bool) -> None:
    selection = Selection(sites=sites)
    assert selection.takes(at()) is taken
    assert selection.wants("latent") is taken


def test_units_are_taken_by_number() -> None:
    taken = [unit for unit in range(6) if Selection(units=(0, 4, 5)).takes(at(unit))]
    assert taken == [0, 4, 5]


def test_every_nth_unit_is_counted_from_the_first() -> None:
    assert [unit for unit in range(9) if Selection(every=4).takes(at(unit))] == [0, 4, 8]


def test_units_and_every_both_hold() -> None:
    assert [unit for unit in range(9) if Selection(units=(3, 4, 5, 6), every=2).takes(at(unit))] == [4, 6]


def test_steps_are_those_of_the_phases_that_have_several() -> None:
    selection = Selection(steps=(1,), stepped=("denoise",))
    assert [step for step in range(3) if selection.takes(at(step=step))] == [1]
    others = ("prompt", "image", "cache", "decode")
    assert all(selection.takes(at(phase=phase, step=0)) for phase in others)


def test_steps_are_those_of_every_phase_where_none_is_named() -> None:
    assert [step for step in range(3) if Selection(steps=(1,)).takes(at(phase="refine", step=step))] == [1]


def test_inputs_are_always_taken() -> None:
    """They are what proves that two runs were given the same."""
    selection = Selection(sites=("latent",), units=(0,), steps=(0,), every=5)
    assert selection.takes(at(unit=3, step=1, site="input.sigma"))
    assert selection.wants("input.sigma")


@pytest.mark.parametrize("nothing", [{"sites": ()}, {"units": ()}, {"steps": ()}, {"every": 0}])
def test_a_selection_of_nothing_is_the_callers_error(nothing: dict[str, object]) -> None:
    with pytest.raises(UserError, match="nothing is selected"):
        Selection(**nothing)  # type: ignore[arg-type]  # whichever field it is


def test_a_selection_survives_json() -> None:
    selection = Selection(sites=("*.attn",), units=(1, 2), stepped=("denoise", "refine"), every=2)
    assert msgspec.json.decode(msgspec.json.encode(selection), type=Selection) == selection
