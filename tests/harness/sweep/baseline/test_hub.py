"""Baselines in a dataset repository, through the real client.

It talks HTTP to a stand-in of the hub on this machine, and reads a local hub cache. No test reaches the hub itself.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.harness.hub_datasets import DatasetHub
from tests.harness.hub_server import serving
from tests.harness.observations import key, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.sweep.baseline.document import open_baseline
from waypoint_parity.harness.sweep.baseline.hub import pull
from waypoint_parity.harness.sweep.baseline.store import accept

REPO = "owner/baselines"
ROOT = Path(__file__).parents[4]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with the baseline `nightly`."""
    pixels = torch.zeros(4, 4, 3, dtype=torch.uint8)
    seen = [(key("latent"), normal(4, 4)), (Key(0, "decode", 0, "frame"), pixels)]
    accept(write_dump(tmp_path / "dump", seen), "nightly", tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def hub() -> Iterator[DatasetHub]:
    with serving(DatasetHub()) as hub:
        yield hub


@pytest.fixture
def command(hub: DatasetHub, tmp_path: Path) -> "Command":
    return Command(hub.address, tmp_path / "cache")


class Command:
    """`waypoint-parity baseline` in a process of its own: the hub's client reads its settings when it is imported."""

    def __init__(self, address: str, cache: Path) -> None:
        self.settings = {"HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        self.address = address

    def __call__(self, *arguments: object, **settings: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "waypoint_parity", "baseline", *map(str, arguments)]
        there = {"HF_ENDPOINT": self.address, "HF_TOKEN": "hf_none", **self.settings, **settings}
        return subprocess.run(
            command, env={**os.environ, **there}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    def pushed(self, store: Path, *more: str) -> str:
        """Push, and return where the baseline is pinned."""
        found = self("push", "nightly", "--repo", REPO, "--store", store, *more)
        assert (found.returncode, found.stderr) == (0, "")
        return found.stdout.split()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_lies_below_the_name_and_is_pulled_as_it_was(
    store: Path, hub: DatasetHub, command: Command, tmp_path: Path
) -> None:
    pinned = command.pushed(store)
    repository = hub.repositories[REPO]
    assert pinned == f"{REPO}@{repository.head}"
    assert repository.created["type"] == "dataset"
    # Releases of the client spell it differently.
    assert repository.created.get("visibility") == "private" or repository.created.get("private") is True
    expected = contents(store / "nightly")
    assert repository.files("main") == {f"baselines/nightly/{path}": of for path, of in expected.items()}
    pulled = command("pull", "nightly", "--repo", pinned, "--store", tmp_path / "there")
    assert (pulled.returncode, pulled.stderr) == (0, "")
    assert pulled.stdout.startswith(f"{tmp_path / 'there' / 'nightly'}: 1 dump of eager")
    assert contents(tmp_path / "there" / "nightly") == expected


def test_a_name_that_is_taken_there_is_replaced_only_with_force_and_then_whole(
    store: Path, hub: DatasetHub, command: Command, tmp_path: Path
) -> None:
    first = command.pushed(store)
    refused = command("push", "nightly", "--repo", REPO, "--store", store)
    assert (refused.returncode, refused.stderr.splitlines()[0]) == (2, f"error: {REPO}: has baselines/nightly already")
    assert first == f"{REPO}@{hub.repositories[REPO].head}"
    accept(write_dump(tmp_path / "other", [(key("latent"), normal(2))]), "nightly", store, force=True)
    second = command.pushed(store, "--force")
    files = {f"baselines/nightly/{path}": of for path, of in contents(store / "nightly").items()}
    assert hub.repositories[REPO].files(second.rpartition("@")[2]) == files


def test_what_another_pushes_meanwhile_is_not_overwritten(store: Path, hub: DatasetHub, command: Command) -> None:
    hub.before_commit = {"baselines/nightly/baseline.json": b"of somebody else"}
    refused = command("push", "nightly", "--repo", REPO, "--store", store)
    assert refused.returncode == 2
    assert "cannot be sent to the hub" in refused.stderr
    assert hub.repositories[REPO].files("main") == hub.before_commit


def test_a_refusal_of_the_hub_is_told_in_four_parts(store: Path, hub: DatasetHub, command: Command) -> None:
    hub.refuses = True
    refused = command("push", "nightly", "--repo", REPO, "--store", store)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert f"error: {REPO}: the baseline cannot be sent to the hub\n  found:    " in refused.stderr


def test_a_baseline_that_is_damaged_is_neither_pushed_nor_pulled(
    store: Path, hub: DatasetHub, command: Command, tmp_path: Path
) -> None:
    pinned = command.pushed(store)
    files = hub.repositories[REPO].files(pinned.rpartition("@")[2])
    files["baselines/nightly/dump/activations.jsonl"] = b"{}\n"
    pulled = command("pull", "nightly", "--repo", pinned, "--store", tmp_path / "there")
    assert pulled.returncode == 2
    assert "the baseline is damaged" in pulled.stderr
    assert not list((tmp_path / "there").iterdir())
    (store / "nightly" / "dump" / "activations.jsonl").write_text("{}\n")
    assert "the baseline is damaged" in command("push", "nightly", "--repo", "owner/other", "--store", store).stderr
    assert "owner/other" not in hub.repositories


@pytest.mark.parametrize("revision", ["", "@main", "@0123456"])
def test_a_revision_that_is_not_pinned_is_refused(tmp_path: Path, revision: str) -> None:
    with pytest.raises(UserError, match="40 hex digits"):
        pull("nightly", f"{REPO}{revision}", tmp_path)


def test_a_name_that_is_not_there_is_refused(store: Path, command: Command, tmp_path: Path) -> None:
    refused = command("pull", "weekly", "--repo", command.pushed(store), "--store", tmp_path / "there")
    assert refused.returncode == 2
    assert "has no baselines/weekly" in refused.stderr


def test_a_name_that_is_taken_here_is_replaced_only_with_force(store: Path, command: Command) -> None:
    pinned = command.pushed(store)
    accepted = open_baseline(store / "nightly").document
    (store / "nightly" / "dump" / "activations.jsonl").write_text("{}\n")
    refused = command("pull", "nightly", "--repo", pinned, "--store", store)
    assert (refused.returncode, "exists already" in refused.stderr) == (2, True)
    assert command("pull", "nightly", "--repo", pinned, "--store", store, "--force").returncode == 0
    assert open_baseline(store / "nightly").document == accepted


def test_what_lies_in_the_local_cache_is_pulled_offline(store: Path, command: Command, tmp_path: Path) -> None:
    """Copied there by hand, as to a machine without a network."""
    revision = "93fe14eed217bb09c0244a9d91b2b3e88c3de181"
    snapshot = tmp_path / "cache" / "hub" / "datasets--owner--baselines" / "snapshots" / revision
    shutil.copytree(store / "nightly", snapshot / "baselines" / "nightly")
    pull = ("pull", "nightly", "--store", tmp_path / "there")
    found = command(*pull, "--repo", f"{REPO}@{revision}", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert found.returncode == 0, found.stderr
    assert contents(tmp_path / "there" / "nightly") == contents(store / "nightly")
    absent = command(*pull, "--repo", f"{REPO}@{revision[::-1]}", "--force", HF_HUB_OFFLINE="1")
    assert (absent.returncode, "cannot be fetched from the hub" in absent.stderr) == (2, True)
