import dataclasses
import sys
from pathlib import Path

import pytest

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.replay import Replay
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.registry import find, load, registered, split_options
from waypoint_parity.reference.eager.adapter import EagerAdapter

SOURCE = """
from dataclasses import dataclass
from waypoint_parity.reference.eager.adapter import EagerAdapter

@dataclass
class Setting:
    size: int = 1

class MyPort(EagerAdapter):
    setting = Setting()

class Patched(EagerAdapter):
    OPTIONS = ("patched", "merged")

    def __init__(self, checkpoint, numerics):
        super().__init__(checkpoint, numerics)
        self.options = numerics.options

    def describe(self):
        return {"options": "+".join(self.options)}

number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_port.py"
    path.write_text(SOURCE)
    return path


def refusal(implementation: str) -> UserError:
    with pytest.raises(UserError) as caught:
        find(implementation)
    return caught.value


def test_the_projects_own_implementations_are_found_by_name() -> None:
    assert find("eager") is EagerAdapter
    assert find("candidate") is CandidateAdapter
    assert {"eager", "candidate"} <= registered().keys()


def test_a_class_is_found_in_a_module() -> None:
    assert find("waypoint_parity.reference.eager.adapter:EagerAdapter") is EagerAdapter


def test_a_class_is_found_in_a_file(file: Path) -> None:
    found = find(f"{file}:MyPort")
    assert found.__name__ == "MyPort"
    assert issubclass(found, EagerAdapter)


def test_a_file_of_a_packages_name_does_not_take_the_packages_place(file: Path) -> None:
    port = file.rename(file.with_name("candidate.py"))
    assert find(f"{port}:MyPort").__name__ == "MyPort"
    assert "candidate" not in sys.modules
    assert find("candidate") is CandidateAdapter


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    error = refusal("eagre")
    assert error.what == "eagre: no such implementation"
    names = "candidate, causal-wan-fastvideo, command, diffusers, dump, eager, fastvideo, hy-worldplay, "
    names += "hy-worldplay-diffusers, self-forcing, wan-diffusers, wan-fastvideo, wan-official, world-engine"
    assert names in error.found


@pytest.mark.parametrize(
    "implementation", ["nowhere.at.all:Port", "waypoint_parity.reference.eager.adapter:", ":Port", ".sibling:Port"]
)
def test_a_module_or_class_that_is_not_there_is_refused(implementation: str) -> None:
    assert "no such implementation" in refusal(implementation).what


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/absent.py:Port").found == "no such file"


def test_a_file_without_the_class_is_refused_with_those_that_it_has(file: Path) -> None:
    assert "MyPort" in refusal(f"{file}:OurPort").found
    assert "no class number" in refusal(f"{file}:number").found


def test_a_class_without_the_methods_of_an_adapter_is_refused_by_method() -> None:
    error = refusal("tests.harness.implementations:NoAdapter")
    assert error.found == "a class without sites, session"


def test_options_after_the_name_are_the_implementations_own_numerics(
    file: Path, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    (file.parent / "c++").mkdir()
    port = file.rename(file.parent / "c++" / "my_port.py")
    assert load("eager", tiny, fp32_on_cpu).describe()
    assert load(f"{port}:Patched+patched+merged", tiny, fp32_on_cpu).describe()
    with pytest.raises(UserError) as caught:
        load(f"{port}:Patched+fused+patched", tiny, fp32_on_cpu)
    assert (caught.value.found, caught.value.expected) == ("fused", "one of patched, merged")


def test_an_implementation_without_options_takes_none(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError, match="candidate has no such option"):
        load("candidate+patched", tiny, fp32_on_cpu)


def test_an_option_of_the_whole_run_reaches_only_who_knows_it(
    file: Path, tiny: Checkpoint, fp32_on_cpu: Numerics
) -> None:
    whole_run = dataclasses.replace(fp32_on_cpu, options=("patched",))
    assert load("eager", tiny, whole_run).describe()
    assert load(f"{file}:Patched+merged", tiny, whole_run).describe()["options"] == "merged+patched"


class TestArguments:
    """A registered class may take one behind its name, such as a folder."""

    def test_what_stands_behind_the_name_is_the_argument(self) -> None:
        found = find("dump:some/folder+with:signs")
        assert found.argument == "some/folder+with:signs"  # type: ignore[attr-defined]
        assert issubclass(found, Replay)
        assert split_options("dump:some/folder+with:signs") == ("dump:some/folder+with:signs", [])

    def test_a_class_that_takes_one_needs_it(self) -> None:
        with pytest.raises(UserError) as refused:
            find("dump")
        assert Replay.ARGUMENT in refused.value.found

    def test_nothing_is_no_argument(self) -> None:
        with pytest.raises(UserError):
            find("dump:")

    def test_a_class_that_takes_none_is_given_none(self) -> None:
        with pytest.raises(UserError):
            find("eager:some/folder")
