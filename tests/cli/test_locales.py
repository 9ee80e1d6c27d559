"""Terminals and locales that do not have every character: all commands work, on files of any name."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, ROOT

LOCALES = {
    "an ASCII terminal": {"LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    "an ASCII system": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "UTF-8": {"LC_ALL": "C.UTF-8"},
}
NAME = os.fsencode("mod\u00e8le \u4e2d")
PORT = """
from engine import NAME
from waypoint_parity.reference.eager.adapter import EagerAdapter

class Port(EagerAdapter):
    def describe(self):
        return super().describe() | {"name": NAME}
"""


@pytest.mark.parametrize("locale", LOCALES)
def test_every_command_works_whatever_files_are_called(
    locale: str, tiny_folder: Path, scenario_file: Path, tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(NAME)
    shutil.copytree(tiny_folder, folder / "checkpoint")
    shutil.copy(scenario_file, folder / "scenario.safetensors")
    (folder / "port.py").write_text(PORT)
    (folder / "engine.py").write_text("NAME = 'one'\n")
    inputs = ["--checkpoint", folder / "checkpoint", "--scenario", folder / "scenario.safetensors"]
    one = ["--schedule", "single-step", "--seed", "1", "--prompt-mask", "zeroed", "--no-blame", "--no-exact"]
    port = os.fsencode(folder / "port.py") + b":Port"
    for words, code in [
        (["info", folder / "checkpoint"], 0),
        (["dump", port, *inputs, "--out", folder / "dump"], 0),
        (["diff", folder / "dump", folder / "dump"], 0),
        (["diff", folder / "dump", folder / "nowhere"], 2),
        (["ring", folder / "dump"], 0),
        (["parity", "--candidate", port, *inputs, *one, "--jobs", "1", "--out", folder / "out"], 0),
        (["report", folder / "out"], 0),
        (["diff", b"--" + NAME], 2),
        # safetensors opens no file of such a name.
        (["diff", folder / "dump", b"mod\xe8le"], 2),
        (["info", b"mod\xe8le"], 2),
    ]:
        ended = subprocess.run(
            [*COMMAND, *words], capture_output=True, cwd=ROOT, env=os.environ | LOCALES[locale], timeout=120
        )
        told = ended.stdout + ended.stderr
        assert ended.returncode == code, (words, told)
        assert b"UnicodeEncodeError" not in told
        assert told
