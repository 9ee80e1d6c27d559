"""Adapters in files, with modules beside them: each gets its own, by whatever route it imports them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from waypoint_parity.harness.run.registry import find

PORT = """
{above}
class Port:
    def __init__(self, *given):
        self.at_begin = self.imported()
    def describe(self):
        return {{"engine": self.imported()}}
    def sites(self):
        return {{}}
    def imported(self):
        {within}
    def session(self, scenario):
        for _ in range(3):
            yield self.imported()
"""
# How an adapter comes by the module beside it: at the top of its file, and inside its methods.
ROUTES = {
    "at the top": ("from my_engine import NAME", "return NAME"),
    "late": ("", "from my_engine import NAME; return NAME"),
    "importlib, late": ("import importlib", "return importlib.import_module('my_engine').NAME"),
    "pickled by name": ("import my_engine, pickle", "return pickle.loads(b'cmy_engine\\nNAME\\n.')"),
    "a package, late": ("", "from my_package.deep import NAME; return NAME"),
    "another folder on the path": (
        "import os, sys\nsys.path.insert(0, os.path.join(os.path.dirname(__file__), 'lib'))",
        "from in_lib import NAME; return NAME",
    ),
}


def project(folder: Path, name: str, above: str, within: str) -> str:
    """An adapter whose neighbours say that they are `name`."""
    for part in ("", "my_package", "lib"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for part in ("my_engine.py", "my_package/deep.py", "lib/in_lib.py"):
        (folder / part).write_text(f"NAME = {name!r}\n")
    (folder / "my_package" / "__init__.py").touch()
    (folder / "port.py").write_text(PORT.format(above=above, within=within))
    return f"{folder / 'port.py'}:Port"


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]


@pytest.mark.parametrize("route", ROUTES)
def test_two_adapters_have_each_its_own_neighbours(tmp_path: Path, route: str) -> None:
    ports = [project(tmp_path / name, name, *ROUTES[route]) for name in ("one", "other")]
    one, other = (find(port)(None, None) for port in ports)  # type: ignore[arg-type]
    assert (one.at_begin, other.at_begin) == ("one", "other")  # type: ignore[attr-defined]
    assert list(zip(one.session(None), other.session(None), strict=True)) == [("one", "other")] * 3  # type: ignore[arg-type]
    assert one.describe() == {"engine": "one"}
    assert other.describe() == {"engine": "other"}


def test_adapters_of_one_folder_share_their_neighbours(tmp_path: Path) -> None:
    port = project(tmp_path, "one", *ROUTES["at the top"])
    (tmp_path / "second.py").write_text((tmp_path / "port.py").read_text())
    first, second = find(port), find(f"{tmp_path / 'second.py'}:Port")
    assert vars(sys.modules[first.__module__])["NAME"] is vars(sys.modules[second.__module__])["NAME"]


def test_a_neighbour_of_the_name_of_a_module_of_another_project_is_the_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "my_engine.py").write_text("NAME = 'elsewhere'\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "elsewhere")
        import my_engine  # type: ignore[import-not-found]

        port = find(project(tmp_path / "one", "one", *ROUTES["late"]))
        assert port(None, None).describe() == {"engine": "one"}  # type: ignore[arg-type]
        assert sys.modules["my_engine"] is my_engine


@pytest.mark.parametrize("name", ["json", "torch", "waypoint_parity", "inspect"])
def test_a_neighbour_does_not_take_the_place_of_what_is_loaded(tmp_path: Path, name: str) -> None:
    before = sys.modules[name]
    port = project(tmp_path, "one", "import json, torch, inspect, waypoint_parity", "return torch.__name__")
    (tmp_path / f"{name}.py").write_text("raise AssertionError")
    assert find(port)(None, None).describe() == {"engine": "torch"}  # type: ignore[arg-type]
    assert sys.modules[name] is before


def test_it_runs_as_a_script_would(tmp_path: Path) -> None:
    port = project(tmp_path, "one", "from my_engine import NAME", "return NAME")
    script = f"{Path(port.rpartition(':')[0]).read_text()}\nprint(Port().describe())"
    (tmp_path / "script.py").write_text(script)
    ran = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, cwd="/", check=True)
    assert ran.stdout.strip() == str(find(port)(None, None).describe())  # type: ignore[arg-type]
