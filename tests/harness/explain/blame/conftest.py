"""What the tests of blame share: the shortest session, its noise, cases on it and their searches, each made once."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.harness.explain.blame import candidates
from tests.harness.observations import JUDGEMENT
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.explain.blame.case import Case, load_case
from waypoint_parity.harness.explain.blame.exchanges import exchange_called
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.noise import Noise
from waypoint_parity.harness.explain.blame.result import Blame
from waypoint_parity.harness.explain.blame.runs import noise_run
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import decoded_pictures
from waypoint_parity.reference.eager.adapter import EagerAdapter

Cases = Callable[..., Case]
Searching = Callable[..., Blame]


@pytest.fixture(scope="session")
def one_frame(tiny: Checkpoint) -> Scenario:
    """A session of one frame on the tiny checkpoint."""
    return make_scenario(tiny.geometry, name="one", units=1, seed=3, prompt_tokens=6, prompt_padding=2)


@pytest.fixture(scope="session")
def eager(tiny: Checkpoint, fp32_on_cpu: Numerics) -> EagerAdapter:
    """The reference."""
    return EagerAdapter(tiny, fp32_on_cpu)


@pytest.fixture(scope="session")
def case(tiny: Checkpoint, fp32_on_cpu: Numerics, one_frame: Scenario) -> Cases:
    """The case of the reference and a candidate with changes."""

    def made(
        *changes: Callable[[Any], None],
        candidate: str = "candidate",
        scenario: Scenario = one_frame,
        judgement: Judgement = JUDGEMENT,
    ) -> Case:
        def changed(adapter: Adapter) -> None:
            for change in changes:
                change(adapter)

        return load_case("eager", candidate, tiny, fp32_on_cpu, scenario, judgement, changed=changed)

    return made


@pytest.fixture(scope="session")
def noise(case: Cases, one_frame: Scenario) -> Noise:
    """The noise of the shortest session."""
    right = case()
    with decoded_pictures(right.spare, right.family) as pictures:
        run(right.spare, one_frame, right.checkpoint)
    return noise_run(right, pictures)


@pytest.fixture(scope="session")
def search(noise: Noise, tmp_path_factory: pytest.TempPathFactory) -> Searching:
    """The search of a case for its causes. `gains`: where to measure them besides the causes, None for nowhere."""

    def searched(
        case: Case,
        folder: Path | None = None,
        *,
        wanted: Sequence[str] = (),
        gains: Sequence[str] | None = None,
        **kept: Any,
    ) -> Blame:
        journal = Journal(folder or tmp_path_factory.mktemp("search"), case.identity, **kept)
        exchanges = [exchange_called(name, case.reference.adapter.sites(), case.family) for name in wanted]
        measured: Any = {"gains": gains is not None, "gain_sites": gains or ()}
        return Search(case, journal, noise=noise, exchanges=exchanges, **measured).run()

    return searched


@pytest.fixture(scope="session")
def of_velocity(case: Cases, search: Searching) -> Blame:
    """The blame of a candidate with a single fault, in its velocity; besides, the head and the decoder exchanged."""
    return search(case(candidates.faster), gains=["decoder.conv_o*"], wanted=["head", "decoder"])
