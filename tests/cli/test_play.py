"""The play command as a user runs it: it says where its page is, and Ctrl-C ends it."""

import signal
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.cli.conftest import COMMAND, ROOT, refused


def test_it_serves_its_page_until_it_is_interrupted(tiny_folder: Path, scenario_file: Path) -> None:
    inputs = ["--checkpoint", str(tiny_folder), "--scenario", str(scenario_file), "--candidate", "eager"]
    with subprocess.Popen([*COMMAND, "play", *inputs], stdout=subprocess.PIPE, text=True, cwd=ROOT) as playing:
        assert playing.stdout is not None
        address = playing.stdout.readline().split()[0]
        with urlopen(address, timeout=30) as page:
            text = page.read().decode()
        playing.send_signal(signal.SIGINT)
        assert playing.wait(timeout=60) == 0
    assert address.startswith("http://127.0.0.1:")
    assert "eager" in text
    assert "Content-Security-Policy" in text


@pytest.mark.parametrize(
    ("option", "found"),
    [
        (("--buttons", "w=16"), "w=16"),
        (("--buttons", "w"), "w"),
        (("--turns", "a=left"), "a=left"),
    ],
)
def test_a_key_without_a_meaning_is_refused(tiny_folder: Path, option: tuple[str, str], found: str) -> None:
    assert refused("play", "--checkpoint", tiny_folder, *option)["found"] == found
