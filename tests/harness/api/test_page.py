"""Every example of docs/python.md runs."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api.test_plugin import Pytest, warm  # noqa: F401

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
IN_PYTEST = [block for block in BLOCKS if "(parity)" in block]
OF_RUNS = [block for block in BLOCKS if "checkpoint" in block]


def run_blocks(blocks: list[str]) -> dict[str, Any]:
    """Run blocks one after the other, as a reader does."""
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    return names


def test_the_examples_of_modules_and_tensors_run() -> None:
    plain = [block for block in BLOCKS if block not in (*IN_PYTEST, *OF_RUNS)]
    assert len(plain) >= 5
    run_blocks(plain)


def test_the_examples_of_runs_run(
    tiny_folder: Path, scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_port.py").write_text((ROOT / "fixtures" / "examples" / "my_port.py").read_text())
    small = {"fixtures/golden/base": str(tiny_folder), "fixtures/scenarios/walk.safetensors": str(scenario_file)}
    blocks = [re.sub("|".join(map(re.escape, small)), lambda found: small[found[0]], block) for block in OF_RUNS]
    names = run_blocks([BLOCKS[0], *blocks])
    assert names["comparison"]
    assert names["found"]
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.usefixtures("warm")
def test_the_examples_of_pytest_run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    first = "\n".join(BLOCKS[:2]).partition("comparison =")[0] + "\nours.act = nn.GELU().eval()\n"
    source = first + "\n".join(IN_PYTEST)
    run = Pytest(pytester, monkeypatch)
    run(source, "--parity-accept").assert_outcomes(passed=3)
    run(source).assert_outcomes(passed=3)
