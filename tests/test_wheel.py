"""What `pip install waypoint-parity` brings: one name, with everything below it."""

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("harness", "reference", "candidate", "reports", "fixtures")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a built wheel lies unpacked, as pip unpacks it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=120)
    if "No matching distribution found for hatchling" in built.stderr:
        pytest.skip("the build backend, hatchling, cannot be had here")
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_holds_the_five_folders_under_one_name_and_nothing_else(installed: Path) -> None:
    brought = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    ours = {f"waypoint_parity/{name}" for name in ("__init__.py", "__main__.py", "py.typed")} | {
        f"waypoint_parity/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "out"} & {*path.relative_to(ROOT).parts}
    }
    assert {name for name in brought if ".dist-info/" not in name} == ours


def test_a_wheel_leaves_the_torch_that_is_there(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    required = Parser().parsestr(metadata.read_text()).get_all("Requires-Dist")
    assert [name for name in required if name.startswith("torch")] == ["torch>=2.9"]


def test_a_wheel_works_where_there_is_no_checkout(installed: Path, tmp_path: Path) -> None:
    def output(*words: str) -> str:
        env = os.environ | {"PYTHONPATH": str(installed)}
        ended = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tmp_path, env=env)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    where = "from waypoint_parity.reports import page; print(page.__file__)"
    assert Path(output("-c", where).strip()).is_relative_to(installed)
    assert "eager" in output("-m", "waypoint_parity", "info")
    api = "import sys, waypoint_parity; waypoint_parity.load_dump; waypoint_parity.diff; print('torch' in sys.modules)"
    assert output("-c", api).strip() == "False"
