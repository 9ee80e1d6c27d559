from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import refused, run, script
from tests.harness import implementations

Dump = Callable[..., tuple[object, ...]]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["compare"],
        ["dump"],
        ["dump", "eager"],
        ["diff", "one-dump-alone"],
        ["diff", "a", "b", "--tolerance", "small"],
        ["diff", "a", "b", "--strict"],
        ["floor", "--runs", "many"],
        ["parity", "--seed", "eleven"],
        ["dump", "eager", "--checkpoint", "c", "--scenario", "s", "--out", "o", "--dtype", "fp16"],
        ["scenario", "make", "--checkpoint", "c", "--out", "o", "--controls", "jumpy"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_end_with_2_and_point_to_the_help(arguments: list[str]) -> None:
    outcome = script(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--help" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_unknown_implementation_is_refused_with_those_there_are(dump: Dump, tmp_path: Path) -> None:
    parts = refused(*dump("eagre"))
    assert parts["what"] == "eagre: no such implementation"
    names = "candidate, causal-wan-fastvideo, command, diffusers, dump, eager, fastvideo, hy-worldplay, "
    names += "hy-worldplay-diffusers, self-forcing, wan-diffusers, wan-fastvideo, wan-official, world-engine"
    assert names in parts["found"]
    assert "waypoint-parity info" in parts["do"]
    assert not (tmp_path / "out").exists()


def test_a_file_without_the_methods_of_an_adapter_is_refused_by_method(dump: Dump, tmp_path: Path) -> None:
    (tmp_path / "my_port.py").write_text("class MyPort:\n    def describe(self): return {}\n")
    parts = refused(*dump(f"{tmp_path}/my_port.py:MyPort"))
    assert parts["found"] == "a class without sites, session"
    assert not (tmp_path / "out").exists()


def test_a_method_that_is_left_to_an_adapter_is_refused_by_name(dump: Dump, tmp_path: Path) -> None:
    family = "from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame\n"
    methods = "".join(f"    def {name}(self, *given): ...\n" for name in ("describe", "sites", "start"))
    (tmp_path / "my_port.py").write_text(f"{family}class MyPort(FrameByFrame):\n{methods}")
    parts = refused(*dump(f"{tmp_path}/my_port.py:MyPort"))
    assert parts["found"] == "a class without append_image, generate"
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there_is_refused_by_name(dump: Dump, tmp_path: Path) -> None:
    assert refused(*dump("eager", "--device", "cuda:99"))["what"] == "device cuda:99 cannot be used"
    assert not (tmp_path / "out").exists()


def test_less_than_one_thread_is_refused(dump: Dump) -> None:
    assert refused(*dump("eager", "--threads", 0))["found"] == "0"


@pytest.mark.parametrize("seconds", ["-1", "0", "nan", "inf"])
def test_a_side_that_may_be_silent_for_ever_is_refused(dump: Dump, seconds: str) -> None:
    assert refused(*dump("eager", f"--side-timeout={seconds}"))["found"] == str(float(seconds))


def test_what_the_reference_does_not_do_is_refused(dump: Dump, tmp_path: Path) -> None:
    assert refused(*dump("eager", "--compiled"))["what"] == "the eager reference does not compile"
    assert not (tmp_path / "out").exists()


def test_a_fault_of_an_adapter_is_told_from_a_wrong_call(dump: Dump, tmp_path: Path) -> None:
    outcome = run(*dump(f"{implementations.__name__}:Interrupted"))
    assert outcome.code == 70
    assert "RuntimeError: out of luck" in outcome.err
    outcome = run("diff", tmp_path / "out", tmp_path / "out")
    assert outcome.code == 1
    assert "out of luck" in outcome.out
