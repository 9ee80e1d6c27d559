import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.hub_server import REPOSITORY, REVISION, Hub, serving
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.checkpoint.convert import convert
from waypoint_parity.harness.checkpoint.hub import locate
from waypoint_parity.harness.errors import UserError

PINNED = f"{REPOSITORY}@{REVISION}"
DIFFUSERS = {
    "transformer/config.json": b"{}",
    "transformer/diffusion_pytorch_model.safetensors.index.json": b'{"weight_map": {}}',
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors": b"first shard",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors": b"second shard",
    "vae/config.json": b"{ }",
    "vae/diffusion_pytorch_model.safetensors": b"autoencoder",
}
PACKAGE = {
    "config.yaml": b"d_model: 64",
    "encoder_conf.yml": b"model: {}",
    "decoder_conf.yml": b"model:  {}",
    "model.safetensors": b"model",
    "encoder.safetensors": b"encoder",
    "decoder.safetensors": b"decoder",
}
NOT_NEEDED = {
    "README.md": b"# Model",
    "transformer/model.py": b"import os",
    "transformer/diffusion_pytorch_model.fp16.safetensors": b"half precision",
    "text_encoder/model.safetensors": b"eleven gigabytes",
    "diffusion_pytorch_model.bin": b"pickled",
}


def snapshot_folder(cache: Path) -> Path:
    return cache / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / REVISION


def located(cache: Path, location: str = PINNED, **environment: str) -> "subprocess.CompletedProcess[str]":
    """`locate` in a process of its own: the hub's client reads its settings when it is imported."""
    code = "import sys; from waypoint_parity.harness.checkpoint.hub import locate; print(locate(sys.argv[1])[0])"
    settings = {"HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, location],
        env={**os.environ, **settings, **environment},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )


def fetched_into(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("home", ["official_weights", "converted_weights"])
def test_a_bare_name_is_found_in_a_conventional_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (tmp_path / home / "Waypoint-1-Small").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("Waypoint-1-Small") == (Path(home, "Waypoint-1-Small"), f"{home}/Waypoint-1-Small")


def test_a_folder_comes_before_a_conventional_one_and_the_official_one_before_a_converted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = [Path("Small"), Path("official_weights/Small"), Path("converted_weights/Small")]
    for folder in reversed(expected):
        folder.mkdir(parents=True)
        assert locate("Small")[0] == folder


@pytest.mark.parametrize(
    "location", ["Small", "../Small", "owner/name", "owner/name@main", f"owner/name@{REVISION[:9]}"]
)
def test_what_is_nowhere_or_not_pinned_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="official_weights/"):
        locate(location)


@pytest.mark.parametrize(
    ("files", "needed"), [(DIFFUSERS | PACKAGE, DIFFUSERS), (PACKAGE, PACKAGE)], ids=["both layouts", "package"]
)
def test_only_the_files_of_one_layout_are_fetched_and_nothing_is_drawn_off_a_terminal(
    tmp_path: Path, files: dict[str, bytes], needed: dict[str, bytes]
) -> None:
    configs = {path: content for path, content in files.items() if path.endswith((".json", ".yml", ".yaml"))}
    with serving(Hub(files | NOT_NEEDED)) as hub:
        found = located(tmp_path, HF_ENDPOINT=hub.address)
    assert (found.returncode, found.stderr) == (0, "")
    assert Path(found.stdout.strip()) == snapshot_folder(tmp_path)
    assert fetched_into(snapshot_folder(tmp_path)) == needed | configs
    assert sorted(hub.fetched) == sorted((path, 0) for path in needed | configs)


def test_a_transfer_that_broke_off_is_resumed_where_it_stopped(tmp_path: Path) -> None:
    large = "vae/diffusion_pytorch_model.safetensors"
    # The client writes 10 MiB at a time: of 12 MiB it keeps 10.
    files = DIFFUSERS | {large: bytes(24 * 2**20)}
    with serving(Hub(files, breaks_off=large)) as hub:
        found = located(tmp_path, HF_ENDPOINT=hub.address)
    assert found.returncode == 0, found.stderr
    assert fetched_into(snapshot_folder(tmp_path)) == files
    assert [first for path, first in hub.fetched if path == large] == [0, 10 * 2**20]


def test_what_was_fetched_once_is_found_without_the_hub(tmp_path: Path) -> None:
    with serving(Hub(DIFFUSERS)) as hub:
        located(tmp_path, HF_ENDPOINT=hub.address)
    for settings in ({"HF_ENDPOINT": hub.address}, {"HF_HUB_OFFLINE": "1"}):
        assert located(tmp_path, **settings).stdout.strip() == str(snapshot_folder(tmp_path))


def test_a_part_of_a_snapshot_is_not_taken_for_the_whole_offline(tmp_path: Path) -> None:
    with serving(Hub(DIFFUSERS)) as hub:
        located(tmp_path, HF_ENDPOINT=hub.address)
    (snapshot_folder(tmp_path) / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    found = located(tmp_path, HF_HUB_OFFLINE="1")
    assert found.returncode != 0
    assert f"{PINNED}: cannot be fetched from the hub" in found.stderr


def test_a_snapshot_in_the_local_cache_is_a_checkpoint_offline(tiny: Checkpoint, tmp_path: Path) -> None:
    """Made by hand, as a user does who copies weights to a machine without a network."""
    convert(tiny, "diffusers", snapshot_folder(tmp_path))
    found = located(tmp_path, HF_HUB_OFFLINE="1")
    assert (found.returncode, found.stderr) == (0, "")
    assert open_checkpoint(found.stdout.strip()).digest == tiny.digest


def test_without_the_snapshot_offline_is_refused_in_four_parts(tmp_path: Path) -> None:
    found = located(tmp_path, HF_HUB_OFFLINE="1")
    assert "UserError" in found.stderr
    assert "the whole snapshot in the local hub cache" in found.stderr


def test_the_autoencoder_of_the_package_layout_may_be_pinned_on_the_hub(tiny: Checkpoint, tmp_path: Path) -> None:
    """`ae_uri` with a revision, as another repository; here already in the cache."""
    folder = tmp_path / "package"
    convert(tiny, "package", folder)
    autoencoder = snapshot_folder(tmp_path)
    autoencoder.mkdir(parents=True)
    for file in [*folder.glob("*coder_conf.yml"), *folder.glob("*coder.safetensors")]:
        file.rename(autoencoder / file.name)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("ae_uri: .", f"ae_uri: {PINNED}"))
    code = (
        "import sys; from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint; "
        "print(open_checkpoint(sys.argv[1]).digest)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.stdout.strip() == tiny.digest, found.stderr
