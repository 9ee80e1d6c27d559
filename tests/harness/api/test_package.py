"""The package: its names, what importing it costs, and dumps without torch."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import waypoint_parity as wp

ROOT = Path(__file__).parents[3]
PLUGIN = "waypoint_parity.harness.api.pytest_plugin"
HEAVY = ("torch", "numpy", "scipy", "pandas", "matplotlib", "skimage", "msgspec")


def loaded_after(program: str) -> list[str]:
    """Which heavy modules a program of its own has imported at its end."""
    told = f"{program}\nimport sys, json; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def test_every_public_name_is_there() -> None:
    assert set(wp.__all__) <= set(dir(wp))
    for name in wp.__all__:
        assert getattr(wp, name).__doc__
    with pytest.raises(AttributeError):
        _ = wp.no_such_name  # type: ignore[attr-defined]


def test_the_version_is_that_of_the_project() -> None:
    assert wp.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_it_is_typed() -> None:
    assert (Path(wp.__file__).parent / "py.typed").is_file()


def test_importing_it_imports_nothing() -> None:
    assert loaded_after("import waypoint_parity") == []


def test_the_plugin_imports_nothing() -> None:
    assert loaded_after(f"import {PLUGIN}") == []
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"] == {
        "waypoint_parity": PLUGIN
    }


def test_dumps_are_loaded_and_compared_without_torch(two_dumps: tuple[Path, Path]) -> None:
    right, wrong = map(str, two_dumps)
    program = (
        "import waypoint_parity as wp\n"
        f"assert wp.diff(wp.load_dump({right!r}), {right!r}, tolerance=1e-5)\n"
        f"comparison = wp.diff({right!r}, {wrong!r})\n"
        "assert not comparison and comparison.first.site == 'b', comparison\n"
        "str(comparison), comparison.to_json()"
    )
    assert not {"torch", "pandas", "matplotlib", "scipy", "skimage"} & set(loaded_after(program))


def test_an_error_of_the_call_has_four_parts(tmp_path: Path) -> None:
    with pytest.raises(wp.UserError) as refused:
        wp.load_dump(tmp_path)
    assert all((refused.value.what, refused.value.found, refused.value.expected, refused.value.do))
