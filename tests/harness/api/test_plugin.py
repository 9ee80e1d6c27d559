"""The pytest plugin, in pytest sessions of its own."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

import waypoint_parity as wp
from waypoint_parity.harness.api.baseline import accept, first_unlike

pytest_plugins = ["pytester"]
PLUGIN = "waypoint_parity.harness.api.pytest_plugin"

CHECKS = """
import pytest, torch

FACTOR = {factor}

@pytest.mark.parametrize("size", [3, 10_000])
def test_values(parity, size):
    x = torch.linspace(-1, 1, size)
    parity.check({{"same": x, "scaled": x * FACTOR}})
    parity.check(x, name="alone")
"""


class Pytest:
    """Runs pytest in a folder of its own, with the plugin."""

    def __init__(self, pytester: pytest.Pytester, patch: pytest.MonkeyPatch) -> None:
        self._pytester = pytester
        # Whatever this session was started with is not for the inner ones.
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        # The same file is written again within a second.
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))

    def __call__(self, source: str, *options: str, apart: bool = False) -> pytest.RunResult:
        """Run a file of tests; `apart`: in a process of its own, which imports torch anew."""
        (self._pytester.path / "test_it.py").write_text(source)
        ran = self._pytester.runpytest_subprocess if apart else self._pytester.runpytest_inprocess
        return ran("-p", PLUGIN, "-p", "no:cacheprovider", *options)

    @property
    def accepted(self) -> list[Path]:
        """The files beside the test."""
        return sorted((self._pytester.path / "__parity__").glob("*"))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what inner sessions use: what they import themselves is forgotten, and torch can be loaded only once."""
    accept(torch.ones(3), "warm", path := tmp_path_factory.mktemp("warm") / "warm.json")
    assert first_unlike(torch.zeros(3), path, rtol=None, atol=None)
    layer = torch.nn.Linear(2, 2).eval()
    assert str(wp.module_parity(layer, layer, torch.ones(1, 2)))


@pytest.fixture
def run(warm: None, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Pytest:
    return Pytest(pytester, monkeypatch)


def test_accepted_values_are_written_and_checked(run: Pytest) -> None:
    never = run(CHECKS.format(factor=2.0))
    never.assert_outcomes(failed=2)
    never.stdout.fnmatch_lines(["*--parity-accept*"])
    accepted = run(CHECKS.format(factor=2.0), "--parity-accept")
    accepted.assert_outcomes(passed=2)
    assert len(run.accepted) == 4
    assert all(path.name in accepted.stdout.str() for path in run.accepted)
    # Small, whatever the tensors are.
    assert max(path.stat().st_size for path in run.accepted) < 100_000
    run(CHECKS.format(factor=2.0)).assert_outcomes(passed=2)
    run(CHECKS.format(factor=2.0), "--parity-accept", "--parity-check").assert_outcomes(passed=2)
    # A rounding is within the default of fp32.
    run(CHECKS.format(factor=2.0 * (1 + 1e-7))).assert_outcomes(passed=2)


def test_what_diverges_from_what_was_accepted_is_named(run: Pytest) -> None:
    run(CHECKS.format(factor=2.0), "--parity-accept").assert_outcomes(passed=2)
    wrong = run(CHECKS.format(factor=2.001))
    wrong.assert_outcomes(failed=2)
    text = wrong.stdout.str()
    assert "scaled" in text
    assert "assert_close" in text
    assert "__parity__" in text
    marked = CHECKS.format(factor=2.001).replace("def test_v", "@pytest.mark.parity(rtol=0.01, atol=0)\ndef test_v")
    run(marked).assert_outcomes(passed=2)


OTHERS = """
import pytest, torch

PAIRS = [
    (torch.ones(3), torch.ones(4)),
    (torch.ones(3), torch.ones(3, dtype=torch.float64)),
    ({"a": torch.ones(3)}, {"a": torch.ones(3), "b": torch.ones(3)}),
    ({"a": torch.ones(3), "b": torch.ones(3)}, {"a": torch.ones(3)}),
    (torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])),
    # Between two elements that are kept.
    (torch.ones(9000), torch.cat([torch.ones(1), torch.full((1,), 1e4), torch.ones(8998)])),
    (torch.arange(5), torch.arange(5) + (torch.arange(5) == 2)),
]

@pytest.mark.parametrize("number", range(len(PAIRS)))
def test_it(parity, number):
    parity.check(PAIRS[number][SIDE])
"""


def test_other_values_fail(run: Pytest) -> None:
    run(OTHERS.replace("SIDE", "0"), "--parity-accept").assert_outcomes(passed=7)
    run(OTHERS.replace("SIDE", "1 - 1")).assert_outcomes(passed=7)
    run(OTHERS.replace("SIDE", "1")).assert_outcomes(failed=7)


NOTHING = """
import pytest, torch

@pytest.mark.parametrize("nothing", [{}, torch.zeros(0), torch.full((3,), float("nan"))])
def test_nothing(parity, nothing):
    parity.check(nothing)

def test_twice(parity):
    parity.check(torch.ones(3), name="one")
    parity.check(torch.ones(3), name="one")

def test_half_a_tolerance(parity):
    parity.check(torch.ones(3), rtol=0.1)
"""


def test_what_could_judge_nothing_is_not_accepted_and_wrong_calls_fail(run: Pytest) -> None:
    run(NOTHING, "--parity-accept").assert_outcomes(failed=5)
    assert [path.name for path in run.accepted] == ["test_it.test_twice.one.json"]


def test_a_broken_file_is_told(run: Pytest) -> None:
    source = "import torch\ndef test_it(parity): parity.check(torch.ones(3))"
    run(source, "--parity-accept").assert_outcomes(passed=1)
    (path,) = run.accepted
    whole = json.loads(path.read_text())
    assert whole["made"]["torch"]
    whole["values"]["value"] |= {"elements": "?", "digest": "0"}
    for content in ("{", json.dumps({**whole, "schema": "another"}), json.dumps(whole)):
        path.write_text(content)
        broken = run(source)
        broken.assert_outcomes(failed=1)
        broken.stdout.fnmatch_lines(["*UserError*"])


MODULES = """
import copy, torch, pytest

def test_right(parity):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)).eval()
    assert parity.modules(net, copy.deepcopy(net), torch.ones(2, 4))

def test_wrong(parity):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 4)).eval()
    other = copy.deepcopy(net)
    other[1] = torch.nn.LeakyReLU(0.2).eval()
    parity.modules(net, other, -torch.eye(4))

def test_tensors(parity):
    parity.tensors({"a": torch.ones(3), "late": torch.ones(3)}, {"a": torch.ones(3), "late": torch.zeros(3)})

def test_elsewhere():
    pass
"""


def test_a_failure_is_the_first_divergence_with_the_path_of_its_comparison(run: Pytest) -> None:
    result = run(MODULES)
    result.assert_outcomes(passed=2, failed=2)
    lines = result.stdout.str().splitlines()
    assert any("first divergence" in line and "1 at unit 0" in line for line in lines)
    assert any("first divergence" in line and "late" in line for line in lines)
    paths = {Path(line.split()[-1]) for line in lines if "comparison:" in line and line.endswith(".json")}
    assert {json.loads(path.read_text())["verdict"] for path in paths} == {"DIVERGED"}


def test_the_marker_selects_what_uses_the_fixture(run: Pytest) -> None:
    run(MODULES, "-m", "parity", "--strict-markers").assert_outcomes(passed=1, failed=2, deselected=1)


def test_several_processes_accept_and_check_at_once(run: Pytest) -> None:
    accepted = run(CHECKS.format(factor=2.0), "-p", "xdist.plugin", "-n", "2", "--parity-accept", apart=True)
    accepted.assert_outcomes(passed=2)
    assert len(run.accepted) == 4
    assert all(path.name in accepted.stdout.str() for path in run.accepted)
    run(CHECKS.format(factor=3.0), "-p", "xdist.plugin", "-n", "2", apart=True).assert_outcomes(failed=2)


def test_names_of_any_kind_become_files(run: Pytest) -> None:
    source = (
        "import pytest, torch\n"
        "class TestIt:\n"
        "    @pytest.mark.parametrize('name', ['a/b', 'a:b', 'ä', 'x' * 300])\n"
        "    def test_it(self, parity, name): parity.check(torch.ones(3), name=name)\n"
    )
    run(source, "--parity-accept").assert_outcomes(passed=4)
    assert len(run.accepted) == 4
    run(source).assert_outcomes(passed=4)
