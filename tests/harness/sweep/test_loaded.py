"""A cell is reused only where all that its engine loaded and read, by whatever route, is as it was."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import run
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.sweep.summary import Summary, read_summary

ADAPTER = """
from waypoint_parity.reference.eager.adapter import EagerAdapter
import ctypes, importlib, importlib.util, json, os, runpy, sys
HERE = os.path.dirname(os.path.abspath(__file__))

class Port(EagerAdapter):
    def session(self, scenario):
        scale = self.scale()
        handle = self.sites()["transformer.blocks.1.mlp"].module.register_forward_hook(lambda m, i, o: o * scale)
        try:
            yield from super().session(scenario)
        finally:
            handle.remove()

    def scale(self):
        {body}
"""
BY_PATH = (
    "spec = importlib.util.spec_from_file_location('kernel', HERE + '/kernel.py'); "
    "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); return module.SCALE"
)
# How an engine comes by its scale: the file that says it, and the code that reads that.
ROUTES = {
    "import": ("kernel.py", "from kernel import SCALE; return SCALE"),
    "importlib": ("kernel.py", "return importlib.import_module('ker' + 'nel').SCALE"),
    "a package by name": ("deep/er/kernel.py", "return importlib.import_module('deep.er.' + 'kernel').SCALE"),
    "the path": ("lib/kernel.py", "sys.path.append(HERE + '/lib'); return __import__('ker' + 'nel').SCALE"),
    "a file that is no module": ("kernel.py", BY_PATH),
    "forgotten": ("kernel.py", "import kernel; del sys.modules['kernel']; return kernel.SCALE"),
    "runpy": ("kernel.py", "return runpy.run_path(HERE + '/kernel.py')['SCALE']"),
    "exec": ("kernel.py", "names = {}; exec(open(HERE + '/kernel.py').read(), names); return names['SCALE']"),
    "data": ("scale.json", "return json.load(open(HERE + '/scale.json'))"),
    "low-level data": ("scale.json", "return float(os.read(os.open(HERE + '/scale.json', os.O_RDONLY), 99))"),
    "data elsewhere": ("../elsewhere/scale.json", "return json.load(open(HERE + '/../elsewhere/scale.json'))"),
    "a library": ("scale.so", "return ctypes.c_double.in_dll(ctypes.CDLL(HERE + '/scale.so'), 'SCALE').value"),
}

# One of each kind: a module, code that is no module, data, a library.
FEW = ("import", "runpy", "low-level data", "a library")


def write(file: Path, scale: float) -> None:
    """Let a file of any kind say a scale."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".so":
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("no C compiler")
        file.unlink(missing_ok=True)
        source = f"double SCALE = {scale};"
        words = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", file]
        subprocess.run(words, input=source, text=True, check=True)
    else:
        file.write_text(str(scale) if file.suffix == ".json" else f"SCALE = {scale}\n")


Sweep = Callable[..., Summary]


@pytest.fixture
def sweep(tiny_folder: Path, scenario_file: Path, tmp_path: Path) -> Sweep:
    """A sweep of one cell of the port in tmp_path/port, each time in a new process."""

    def swept(*options: object) -> Summary:
        inputs = ("--checkpoint", tiny_folder, "--scenario", scenario_file, "--seed", 1, "--prompt-mask", "zeroed")
        how = ("--schedule", "single-step", "--no-blame", "--no-exact", "--jobs", 1, "--out", tmp_path / "out")
        outcome = run("parity", "--candidate", f"{tmp_path / 'port' / 'port.py'}:Port", *inputs, *how, *options)
        assert outcome.code in (0, 1), outcome
        return read_summary(tmp_path / "out" / "summary.json")

    return swept


def port(folder: Path, body: str) -> None:
    (folder / "port").mkdir()
    (folder / "port" / "port.py").write_text(ADAPTER.format(body=body))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "route",
    [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in ROUTES],
)
def test_no_cell_passes_an_engine_that_has_changed(sweep: Sweep, tmp_path: Path, route: str) -> None:
    file, body = ROUTES[route]
    port(tmp_path, body)
    write(tmp_path / "port" / file, 1.0)
    assert [(sweep().verdict, sweep().reused)] == [(Verdict.IDENTICAL, 1)]
    write(tmp_path / "port" / file, 1.25)
    changed = sweep()
    assert (changed.verdict, changed.reused) == (Verdict.DIVERGED, 0)


def test_a_file_that_comes_to_be_counts(sweep: Sweep, tmp_path: Path) -> None:
    port(
        tmp_path,
        "try:\n            return json.load(open(HERE + '/own.json'))\n        except OSError:\n            return 1.0",
    )
    assert [(sweep().verdict, sweep().reused)] == [(Verdict.IDENTICAL, 1)]
    write(tmp_path / "port" / "own.json", 1.25)
    assert sweep().verdict is Verdict.DIVERGED


def test_code_that_is_written_while_it_runs_is_never_reused(sweep: Sweep, tmp_path: Path) -> None:
    """The cell was computed by what was loaded, and its file says something else by now."""
    changes = "open(HERE + '/kernel.py', 'w').write('SCALE = 1.25\\n')"
    port(tmp_path, f"import kernel; {changes}; return kernel.SCALE")
    write(tmp_path / "port" / "kernel.py", 1.0)
    assert sweep().verdict is Verdict.IDENTICAL
    changed = sweep()
    assert (changed.verdict, changed.reused) == (Verdict.DIVERGED, 0)


def test_a_cell_of_an_earlier_run_is_marked(sweep: Sweep, tmp_path: Path) -> None:
    port(tmp_path, "return 1.0")
    for options, reused, words in (((), False, "false"), ((), True, "true"), (("--fresh",), False, "false")):
        sweep(*options)
        out = tmp_path / "out"
        assert f'name="reused" value="{words}"' in (out / "junit.xml").read_text()
        for name in ("summary.md", "report.md", "report.html"):
            assert ("reused" in (out / name).read_text().replace("data-reused", "")) is reused, name
