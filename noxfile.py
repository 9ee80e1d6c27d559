"""Sessions of the project: `nox -s parity` runs the main job, `nox -s tests` the tests."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "typing", "tests", "docs", "parity"]
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "virtualenv"

PYPROJECT = nox.project.load_toml("pyproject.toml")
OUT = Path("reports/out")
# The torch that tests and figures are of.
CONSTRAINTS = ".ci/constraints.txt"
# Installing torch takes longer than most sessions run: those that need it share one environment.
SHARED = Path(".nox/shared").absolute()
PROGRAMS = SHARED / ("Scripts" if os.name == "nt" else "bin")
in_shared = nox.session(venv_backend="none")
# A file's tests share what they set up.
ON_ALL_CORES = ("--numprocesses", "auto", "--dist", "loadfile")


def install(session: nox.Session, *groups: str) -> None:
    """Install the project, editable, and the named dependency groups, into the shared environment."""
    session.run_install(sys.executable, "-m", "virtualenv", "--quiet", str(SHARED))
    packages = ("--constraint", CONSTRAINTS, "-e", ".", *nox.project.dependency_groups(PYPROJECT, *groups))
    session.run_install(str(PROGRAMS / "python"), "-m", "pip", "install", "--quiet", *packages)
    session.env["PATH"] = os.pathsep.join((str(PROGRAMS), os.environ["PATH"]))
    # A kernel that a killed process wrote, or another torch, aborts whoever loads it from the cache of all users.
    session.env["TORCHINDUCTOR_CACHE_DIR"] = str(SHARED.with_name("inductor"))


def run(session: nox.Session, program: str, *arguments: str, **env: str) -> None:
    """Run a program of the shared environment."""
    session.run(str(PROGRAMS / program), *arguments, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout with ruff."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@in_shared
def typing(session: nox.Session) -> None:
    """Check types with mypy, strictly."""
    install(session, "typing")
    run(session, "mypy", *session.posargs)


@in_shared
def tests(session: nox.Session) -> None:
    """Run the tests but the slow ones, on all cores; or pytest with the arguments that are given."""
    run_tests(session, session.posargs or (*ON_ALL_CORES, "-m", "not slow"))


@in_shared
def slow(session: nox.Session) -> None:
    """Run the slow tests, on all cores."""
    run_tests(session, (*ON_ALL_CORES, "-m", "slow", *session.posargs))


def run_tests(session: nox.Session, arguments: Sequence[str]) -> None:
    """Run pytest."""
    install(session, "test", "jax", "docs")
    # Where CI is set, pytest prints the whole of what is unequal: hundreds of megabytes, of dumps.
    session.env.update({"CI": "", "BUILD_NUMBER": ""})
    run(session, "pytest", *arguments)


@in_shared
def docs(session: nox.Session) -> None:
    """Build the site of the pages into reports/out/docs; a link that leads nowhere fails."""
    install(session, "docs")
    site = OUT / "docs"
    run(session, "sphinx-build", "-W", "--keep-going", "-n", "-q", "-E", "-d", str(OUT / "doctrees"), "docs", str(site))
    session.log(f"the site is {site / 'index.html'}")


@in_shared
def parity(session: nox.Session) -> None:
    """Run the reference against the candidate over every variant; arguments go to `waypoint-parity parity`."""
    install(session)
    run(session, "waypoint-parity", "parity", *session.posargs)


@in_shared
def scorecard(session: nox.Session) -> None:
    """Put every known fault to the instrument; arguments go to `waypoint-parity scorecard`."""
    install(session)
    OUT.mkdir(parents=True, exist_ok=True)
    run(session, "waypoint-parity", "scorecard", "--json", str(OUT / "scorecard.json"), *session.posargs)


@in_shared
def fuzz(session: nox.Session) -> None:
    """Change files at random, and list what ends in a traceback, or passes. Arguments as `--mutations 200`."""
    install(session)
    run(session, "python", "-m", "waypoint_parity.fixtures.fuzz", str(OUT / "fuzz"), *session.posargs)


@nox.session(name="clean-runs", venv_backend="none")
def clean_runs(session: nox.Session) -> None:
    """Count false alarms among hundreds of right runs, for hours; goes on where it was. Arguments as `--minutes 20`."""
    install(session, "jax")
    run(session, "python", "-m", "waypoint_parity.fixtures.clean_runs", str(OUT / "clean-runs"), *session.posargs)


@nox.session(name="train-world", venv_backend="none")
def train_world(session: nox.Session) -> None:
    """Train the small world from nothing into reports/out/world.

    Arguments go to `python -m waypoint_parity.fixtures.world train`.
    """
    install(session)
    run(session, "python", "-m", "waypoint_parity.fixtures.world", "train", *session.posargs)


@in_shared
def floor(session: nox.Session) -> None:
    """Measure the noise floors that travel with the golden checkpoint; arguments go to `waypoint-parity floor`."""
    install(session)
    measure = ("waypoint-parity", "floor", "--threads", "1", *session.posargs)
    golden = ["--checkpoint", "fixtures/golden/base", "--scenario", "fixtures/scenarios/walk.safetensors"]
    golden += ["--image-scenario", "fixtures/golden/image/scenario.safetensors"]
    for dtype in ("fp32", "bf16"):
        run(session, *measure, *golden, "--dtype", dtype)


@in_shared
def families(session: nox.Session) -> None:
    """Run other people's code of every family, from WAYPOINT_OFFICIAL_PATH: packages and ports; arguments go to pytest.

    The variable holds the folders that contain `world_engine`, `wan` (of Wan2.1, then of Self-Forcing) and `fastvideo`,
    separated as in PYTHONPATH. What is not there is skipped, with the reason and what to install.
    """
    install(session, "test", "families")
    path = os.environ.get("WAYPOINT_OFFICIAL_PATH", "")
    run(session, "pytest", "tests/official", "-rs", *session.posargs, PYTHONPATH=path)


@in_shared
def bench(session: nox.Session) -> None:
    """Measure speed and memory by ratios within one run; writes reports/out/bench.json."""
    install(session, "test")
    OUT.mkdir(parents=True, exist_ok=True)
    raw = OUT / "benchmark-raw.json"
    run(session, "pytest", "tests/bench", "--benchmark-only", f"--benchmark-json={raw}", *session.posargs)
