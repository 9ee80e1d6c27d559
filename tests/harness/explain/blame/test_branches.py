"""A family with two branches a step, which one side evaluates in one call and the other in two."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.harness.explain.blame.candidates import apart, shown
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.explain.blame.case import load_case
from waypoint_parity.harness.explain.blame.exchange import Exchanged
from waypoint_parity.harness.explain.blame.exchanges import exchange_of
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.family import families
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario

TOY = Path(__file__).parents[3] / "toy"
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """A checkpoint of the toy family, which is installed as long as the tests here run."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.json").write_text("{}")
    draw = torch.Generator().manual_seed(0)
    shapes = {"embedding": (7, 12), "net.0": (12, 12), "net.1": (12, 12)}
    save_file(
        {name: torch.randn(shape, generator=draw) / 3 for name, shape in shapes.items()}, folder / "toy.safetensors"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOY)
        families.cache_clear()
        yield open_checkpoint(folder)
    families.cache_clear()


@pytest.fixture(scope="module")
def scenario(toy: Checkpoint) -> Scenario:
    return toy.family.make(toy.geometry, name="two", seed=1, units=2)


def side(name: str, toy: Checkpoint, numerics: Numerics) -> Adapter:
    return load(f"toy_family:{name}", toy, numerics)


def test_a_branch_that_is_wrong_is_exchanged_with_one_that_is_evaluated_by_itself(
    toy: Checkpoint, scenario: Scenario, fp32_on_cpu: Numerics
) -> None:
    wrong, right = side("OneBranch", toy, fp32_on_cpu), side("Reference", toy, fp32_on_cpu)
    expected = shown(side("Reference", toy, fp32_on_cpu), scenario, toy)
    assert max(apart(shown(wrong, scenario, toy), expected).values()) > 100 * ROUNDING
    with Exchanged(wrong, right, [exchange_of("net", [1])], toy) as mixed:
        mended = shown(mixed, scenario, toy)
    assert mixed.refused == set()
    assert max(apart(mended, expected).values(), default=0.0) < ROUNDING


@pytest.mark.parametrize(("layer", "refused"), [(0, set()), (1, {"net.1"})])
def test_what_waits_for_another_branch_of_one_call_is_refused(
    toy: Checkpoint, scenario: Scenario, fp32_on_cpu: Numerics, layer: int, refused: set[str]
) -> None:
    leader, shadow = side("Reference", toy, fp32_on_cpu), side("Batched", toy, fp32_on_cpu)
    own = shown(leader, scenario, toy)
    with Exchanged(leader, shadow, [exchange_of("net", [layer])], toy) as mixed:
        session = shown(mixed, scenario, toy)
    assert mixed.refused == refused
    assert max(apart(session, own).values(), default=0.0) < ROUNDING


@pytest.mark.parametrize(
    ("candidate", "name", "branch"), [("OneBranch", "net of block 1", "without"), ("Forgetful", "sampler", "")]
)
def test_a_search_needs_no_pictures_of_its_own_and_no_decoder(
    toy: Checkpoint,
    scenario: Scenario,
    fp32_on_cpu: Numerics,
    tmp_path: Path,
    candidate: str,
    name: str,
    branch: str,
) -> None:
    judgement = Judgement(fixed_tolerance(toy.family, "fp32"))
    case = load_case("toy_family:Reference", f"toy_family:{candidate}", toy, fp32_on_cpu, scenario, judgement)
    blame = Search(case, Journal(tmp_path, case.identity)).run()
    (cause,) = blame.causes
    assert (cause.name, cause.first.branch, cause.gain) == (name, branch, None)
    assert (blame.restored, blame.contradictions) == (True, [])
    assert cause.necessity is not None
    assert cause.necessity.mean_abs == pytest.approx(1.0, abs=0.01)
