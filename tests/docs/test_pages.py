"""Every command and example of the README and the pages: read by the real parser, and run on small inputs.

A page's commands run in its order, in one folder, where its placeholders are real: files and folders of that very name.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from markdown_it import MarkdownIt
from safetensors.torch import save_file

from tests.cli.conftest import FORKS
from tests.harness.frame_files import session, write_video
from tests.toy.test_toy import write_inputs
from waypoint_parity.fixtures import tiny
from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.cli import main as cli
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.run.scenario import write_scenario

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = "waypoint-parity"
# What is read and not run, by how it begins, and why.
NOT_RUN = {
    "waypoint-parity baseline push": "writes to the hub: tests/harness/sweep/baseline has a stand-in of it",
    "waypoint-parity blame --candidate my_port.py:MyPort --try": "tests/harness/explain/blame/test_hypotheses.py",
    "waypoint-parity blame --cell": "needs the name of a cell: tests/cli/test_parity.py",
    "waypoint-parity dump --cell": "needs the name of a cell: tests/cli/test_parity.py",
    "waypoint-parity report reports/out/parity --cell": "needs the name of a cell: tests/cli/test_parity.py",
    "waypoint-parity blame --reference world-engine": "needs the official package: tests/official",
    "waypoint-parity floor": "takes half an hour: tests/cli/test_floor.py",
    "waypoint-parity parity --candidate 'command: ./engine": "tests/fixtures/test_c_engine.py runs this engine",
    "waypoint-parity parity --candidate 'command: ssh": "needs a second machine",
    "waypoint-parity parity --candidate my_port.py:MyPort --candidate-python": "tests/cli/test_other_python.py",
    "waypoint-parity parity --reference hy-worldplay": "needs the vendor's code: tests/official/test_hy_worldplay.py",
    "waypoint-parity parity --reference self-forcing": "needs other people's code: tests/official/test_causal_wan.py",
    "waypoint-parity parity --reference wan-official": "needs the official code: tests/official/test_wan.py",
    "waypoint-parity parity --plan": "takes hours: tests/harness/sweep/test_plan_file.py reads this plan",
    "waypoint-parity parity --scheduler": "needs a cluster: tests/harness/sweep/test_executors.py has a local one",
    "waypoint-parity play": "runs until it is ended: tests/cli/test_play.py",
    "waypoint-parity scenario make --checkpoint CHECKPOINT --prompt": "loads a text encoder: tests/cli/test_prompt.py",
    "cc ": "tests/fixtures/test_c_engine.py compiles it",
    "nox": "a session of its own",
    "pip": "changes what is installed",
}
# Pages whose output no command of theirs gives here, and why.
NOT_SHOWN = {
    "README.md": "of a cell of the small world: `nox -s parity -- --candidate tests/parity/faulty.py:StaleSlotVisible`",
    "cause.md": "of FastVideo's port, which is not installed",
    "sweep.md": "of a sweep: tests/harness/sweep/test_effects.py makes this sentence",
    "verdict.md": "of a cell in bf16, judged by its noise floor: tests/parity/test_evidence.py",
}
# Commands that end with 1 without output below them: what they find is told by the text.
FAILING = ("waypoint-parity parity --candidate tests/parity/faulty.py", "waypoint-parity blame --reference toy")
# What takes tens of seconds: pages with such a command are for `nox -s slow`.
SLOW = ("waypoint-parity parity", "--exact", "fixtures/scenarios/walk.safetensors")
# Commands that run on the small trained world by default run on less here.
DEFAULTS = {"parity": "--checkpoint CHECKPOINT --scenario SCENARIO --as-recorded"}
# What a page takes for granted.
INPUTS = "--checkpoint CHECKPOINT --scenario SCENARIO"
WALK = "--checkpoint fixtures/golden/base --scenario fixtures/scenarios/walk.safetensors"
BEFORE = {
    "README.md": [f"waypoint-parity dump candidate {INPUTS} --out DUMP"],
    "cause.md": [f"waypoint-parity dump candidate {INPUTS} --out DUMP --tensors"],
    "engine.md": [f"waypoint-parity dump candidate {WALK} --out DUMP"],
    "format.md": [f"waypoint-parity dump candidate {INPUTS} --out my_dump"],
    "sweep.md": [f"waypoint-parity parity {INPUTS} --as-recorded --no-exact"],
    "verdict.md": [f"waypoint-parity dump candidate {INPUTS} --out my_engines_dump --tensors"],
}
NUMBER = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?|\d+e[+-]\d+")
# Options that are not ours, as pages name them.
OPTIONS_OF_OTHERS = {"--fault", "--minutes", "--parity", "--parity-accept", "--parity-check", "--version"}


@dataclass(frozen=True)
class Block:
    """A block of a page that is no prose."""

    language: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The commands that it shows, each in one line and without remarks."""
        if self.language not in {"", "sh", "console"}:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        starts = (OURS, "nox", "pip ", "cc ", "python ")
        return [" ".join(line.partition(" # ")[0].split()) for line in lines if line.startswith(starts)]


@functools.cache
def blocks(page: Path) -> list[Block]:
    tokens = MarkdownIt().parse(page.read_text("utf-8"))
    return [Block(token.info.strip(), token.content) for token in tokens if token.type in {"fence", "code_block"}]


def in_words(page: Path) -> list[str]:
    """Code within sentences and tables."""
    tokens = MarkdownIt().enable("table").parse(page.read_text("utf-8"))
    return [part.content for token in tokens for part in token.children or () if part.type == "code_inline"]


def commands(page: Path) -> list[str]:
    return [command for block in blocks(page) for command in block.commands]


def why_not_run(command: str) -> str | None:
    """Why a command is not run."""
    return next((why for start, why in NOT_RUN.items() if command.startswith(start)), None)


def is_run(command: str) -> bool:
    return why_not_run(command) is None


def words(command: str) -> list[str]:
    return shlex.split(command)[1:]


# --- read


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_parser_takes_every_command(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands(page):
        if command.startswith(OURS):
            try:
                cli.parse(words(command))
            except SystemExit:
                pytest.fail(f"{command}\n{capsys.readouterr().err}")


@functools.cache
def options_by_command() -> dict[str, set[str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = tyro.extras.get_parser(cli.any_command(), prog=OURS)
    return dict(options_below(parser))


def options_below(parser: Any) -> Iterator[tuple[str, set[str]]]:
    yield parser.prog, {name for action in parser._actions for name in action.option_strings}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for child in action.choices.values():
                yield from options_below(child)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_in_sentences_exist(page: Path) -> None:
    known = options_by_command()
    every = {name for names in known.values() for name in names} | OPTIONS_OF_OTHERS
    for code in in_words(page):
        # COMMAND stands for any.
        if code.startswith(f"{OURS} ") and not code.startswith(f"{OURS} COMMAND"):
            begun = code.split(" --")[0].split()
            name = next((" ".join(begun[:n]) for n in (3, 2) if " ".join(begun[:n]) in known), "")
            assert name, code
            assert set(re.findall(r" (--[a-z][a-z-]*)", code)) <= known[name], code
        elif code.startswith("--"):
            assert set(re.findall(r"(?:^| )(--[a-z][a-z-]*)", code)) <= every, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions_and_tests_that_a_page_names_exist(page: Path) -> None:
    noxfile = (ROOT / "noxfile.py").read_text("utf-8")
    sessions = set(re.findall(r"^def (\w+)\(session: nox", noxfile, re.MULTILINE))
    for code in [*in_words(page), *commands(page)]:
        for name in re.findall(r"\bnox -s ([\w-]+)", code):
            assert name.replace("-", "_") in sessions, code
        for file in re.findall(r"\btests/[\w/]+\.py\b", code):
            assert (ROOT / file).is_file(), code


def test_everything_that_is_not_run_is_still_on_a_page() -> None:
    told = [command for page in PAGES for command in commands(page)]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in told)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_output_is_of_the_command_above_it(page: Path) -> None:
    shown = [above for above, block in pairwise([Block("", ""), *blocks(page)]) if block.language == "text"]
    foreign = [above for above in shown if not above.commands or not is_run(above.commands[-1])]
    assert shown if page.name in NOT_SHOWN else not foreign


def test_the_entry_points_of_the_page_about_families_are_those_of_the_example() -> None:
    (block,) = [block for block in blocks(ROOT / "docs" / "families.md") if block.language == "toml"]
    told = tomllib.loads(block.text)["project"]["entry-points"]
    lines = (ROOT / "tests" / "toy" / "toy-0.1.dist-info" / "entry_points.txt").read_text().splitlines()
    given = [tuple(line.split(" = ")) for line in lines if " = " in line]
    assert [pair for group in told.values() for pair in group.items()] == given


# --- run


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the pages name and that is no file of the repository."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("fixtures", "tests", "harness"):
        (folder / name).symlink_to(ROOT / name)
    tiny.write_checkpoint(folder / "CHECKPOINT")
    convert(open_checkpoint(folder / "CHECKPOINT"), "package", folder / "SOURCE")
    save_file({f"ring.ring_{unit:02d}": torch.randn(4, 8) for unit in range(2)}, folder / "oracle")
    geometry = open_checkpoint(folder / "CHECKPOINT").geometry
    write_scenario(make_scenario(geometry, name="walk", units=1, seed=11), folder / "SCENARIO")
    write_inputs(folder / "TOY", folder / "WALK")
    shutil.copy(ROOT / "fixtures" / "examples" / "my_port.py", folder)
    for name in ("right", "permuted"):
        shutil.copy(ROOT / "fixtures" / "peer_dumps" / "fastvideo" / f"{name}.jsonl", folder)
    (folder / "permuted.jsonl").rename(folder / "port.jsonl")
    shutil.copy(folder / "right.jsonl", folder / "trace.jsonl")
    for name, noise in (("vendor", 0), ("port", 1), ("vendor-again", 2)):
        write_video(folder / f"{name}.mp4", session(noise=noise))
    return folder


@pytest.fixture
def workplace(inputs: Path, tmp_path: Path) -> Path:
    """A folder of one page."""
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def _main(arguments: list[str], folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(ROOT / "tests" / "toy"))
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.exit(cli.main(arguments))


def run(command: str, folder: Path) -> tuple[int | None, str, str]:
    """Exit code and output of a command, in a folder."""
    arguments = words(command)
    if arguments[0] in DEFAULTS and "--checkpoint" not in arguments:
        arguments += DEFAULTS[arguments[0]].split()
    process = FORKS.Process(target=_main, args=(arguments, folder))
    process.start()
    process.join()  # pytest has a limit
    return process.exitcode, (folder / "out").read_text("utf-8"), (folder / "err").read_text("utf-8")


def is_like(shown: str, printed: str) -> bool:
    """Whether what is printed is what a page shows: decimals apart, and what `...` stands for."""
    parts = (re.escape(NUMBER.sub("#", part)) for part in shown.rstrip().split("..."))
    return re.fullmatch(".*".join(parts), NUMBER.sub("#", printed.rstrip()), re.DOTALL) is not None


def is_slow(page: Path) -> bool:
    return any(is_run(command) and any(part in command for part in SLOW) for command in commands(page))


def runs(page: Path) -> bool:
    return any(command.startswith(OURS) and is_run(command) for command in commands(page))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if is_slow(page) else ()) for page in PAGES if runs(page)],
    ids=lambda page: page.name,
)
def test_the_commands_run_and_print_what_the_page_shows(page: Path, workplace: Path) -> None:
    for command in BEFORE.get(page.name, []):
        assert run(command, workplace)[0] == 0
    for block, below in pairwise([*blocks(page), Block("", "")]):
        for command in block.commands:
            if not command.startswith(OURS) or not is_run(command):
                continue
            shows = below.language == "text" and command == block.commands[-1] and page.name not in NOT_SHOWN
            shown = below.text if shows else ""
            code, out, err = run(command, workplace)
            assert code == (shown.startswith("DIVERGED") or command.startswith(FAILING)), f"{command}\n{out}\n{err}"
            assert not shown or is_like(shown, out), f"{command}\n{out}"


@pytest.mark.parametrize(
    "page",
    # tests/harness/api/test_page.py runs python.md.
    [page for page in PAGES if any(block.language == "python" for block in blocks(page)) and page.name != "python.md"],
    ids=lambda page: page.name,
)
def test_the_python_examples_run(page: Path, workplace: Path) -> None:
    program = "\n".join(block.text for block in blocks(page) if block.language == "python")
    ended = subprocess.run([sys.executable, "-c", program], cwd=workplace, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
