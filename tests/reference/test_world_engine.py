"""What the adapter of the official package says where it cannot run; needs no package. See tests/official."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.reference.test_waypoint15 import checkpoint_of
from waypoint_parity.fixtures.tiny import autoencoder_config, transformer_config, write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.process_settings import ProcessSettings
from waypoint_parity.reference.world_engine.engine import coder_configs, model_config
from waypoint_parity.reference.world_engine.package import (
    RELEASES,
    TAEHV_REVISION,
    TESTED_REVISION,
    WAYPOINT_1,
    WAYPOINT_15,
    import_package,
    installed_release,
    sources_digest,
)

WORLD_ENGINE = "waypoint_parity.reference.world_engine.adapter:WorldEngineAdapter"
PIP_LINE = f'pip install --no-deps "world_engine @ git+https://github.com/Overworldai/world_engine@{TESTED_REVISION}"'


@pytest.fixture
def _unimported() -> Iterator[None]:
    """Nothing of a package of that name is imported, and what was is again afterwards."""

    def loaded() -> dict[str, object]:
        return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "world_engine"}

    before = loaded()
    for name in before:
        del sys.modules[name]
    yield
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)  # type: ignore[arg-type]  # modules, as they were


@pytest.fixture
def another_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _unimported: None) -> Path:
    """A package of that name that is importable and not the tested one."""
    folder = tmp_path / "world_engine"
    folder.mkdir()
    (folder / "__init__.py").write_text("import os\nos.environ['WAYPOINT_TEST_LEFT'] = 'behind'\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_not_installed_says_which_revision_was_tested_and_how_to_get_it(
    tiny: Checkpoint, fp32_on_cpu: Numerics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "world_engine", None)  # how Python records a module that is absent
    with pytest.raises(UserError) as error:
        registry.load(WORLD_ENGINE, tiny, fp32_on_cpu)
    assert error.value.what == "the official package world_engine is not installed"
    assert TESTED_REVISION in error.value.expected
    assert error.value.do.startswith(PIP_LINE)


@pytest.mark.usefixtures("_unimported")
def test_a_folder_that_merely_bears_the_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "world_engine").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="not installed"):
        import_package()


def test_another_revision_is_refused_by_its_sources(another_revision: Path) -> None:
    with pytest.raises(UserError, match="not the revision that was tested") as error:
        import_package()
    assert sources_digest(another_revision) in error.value.found
    assert TESTED_REVISION in error.value.expected
    assert WAYPOINT_1.sources in error.value.expected
    assert error.value.do.startswith(PIP_LINE)
    assert "world-engine+untested-revision" in error.value.do


def test_another_revision_does_not_drive_waypoint_15(another_revision: Path) -> None:
    with pytest.raises(UserError, match="not the revision that was tested") as error:
        import_package(WAYPOINT_15.model_type)
    assert WAYPOINT_15.digest(another_revision) in error.value.found
    assert WAYPOINT_15.sources in error.value.expected
    assert error.value.do.startswith(WAYPOINT_15.install)
    assert installed_release() is None


@pytest.mark.parametrize("untested", [False, True])
def test_sources_of_the_other_generation_are_refused(
    untested: bool, another_revision: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(WAYPOINT_15, sources=WAYPOINT_15.digest(another_revision))
    monkeypatch.setitem(RELEASES, WAYPOINT_15.model_type, other)
    assert installed_release() is other
    with pytest.raises(UserError, match="not the one that drives waypoint-1") as error:
        import_package(untested=untested)
    assert error.value.do.startswith(PIP_LINE)


def test_waypoint_15_needs_its_autoencoder(another_revision: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = dataclasses.replace(WAYPOINT_15, sources=WAYPOINT_15.digest(another_revision))
    monkeypatch.setitem(RELEASES, WAYPOINT_15.model_type, other)
    monkeypatch.setitem(sys.modules, "taehv", None)
    with pytest.raises(UserError, match="needs taehv") as error:
        import_package(WAYPOINT_15.model_type)
    assert TAEHV_REVISION in error.value.do


def test_another_revision_is_run_on_request_and_what_it_lacks_is_said(another_revision: Path) -> None:
    before = ProcessSettings.read()
    with pytest.raises(UserError, match="something that it needs is not") as error:
        import_package(untested=True)
    assert "world_engine.world_engine" in error.value.found
    assert ProcessSettings.read() == before


def test_the_digest_is_of_names_and_contents_and_not_of_line_endings(tmp_path: Path) -> None:
    def digest(name: str, content: bytes) -> str:
        folder = tmp_path / "sources"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / name).write_bytes(content)
        return sources_digest(folder)

    known = digest("a.py", b"x = 1\ny = 2\n")
    assert digest("a.py", b"x = 1\r\ny = 2\r\n") == known
    assert digest("b.py", b"x = 1\ny = 2\n") != known
    assert digest("a.py", b"x = 1\ny = 3\n") != known


def test_the_patches_are_refused_in_fp32(tiny: Checkpoint, fp32_on_cpu: Numerics) -> None:
    with pytest.raises(UserError, match="look bf16 values up") as error:
        registry.load(f"{WORLD_ENGINE}+patched", tiny, fp32_on_cpu)
    assert "--dtype bf16" in error.value.do


def test_an_option_that_it_does_not_have_is_refused(tiny: Checkpoint) -> None:
    with pytest.raises(UserError, match="has no such option"):
        registry.load(f"{WORLD_ENGINE}+quantised", tiny, Numerics(torch.bfloat16, torch.device("cpu")))


def test_the_config_is_the_checkpoints_and_fetches_nothing() -> None:
    config = transformer_config()
    assert model_config(config) == {**config.to_json(), "ae_uri": ""}


def test_a_model_without_controls_is_refused() -> None:
    with pytest.raises(UserError, match="no model without control conditioning"):
        model_config(transformer_config(ctrl_conditioning=None, ctrl_conditioning_period=None))


def test_frames_that_are_no_whole_blocks_are_refused(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_waypoint_15(tmp_path / "checkpoint"))
    with pytest.raises(UserError, match="in blocks of 128 tokens") as error:
        model_config(checkpoint.geometry.transformer)
    assert error.value.found == "8 tokens per frame"


def test_a_model_without_controls_has_them_in_no_layer() -> None:
    without = dataclasses.replace(
        checkpoint_of("w15-base").geometry.transformer, ctrl_conditioning=False, ctrl_conditioning_period=3
    )
    assert model_config(without)["ctrl_conditioning_period"] is None


def test_encoder_and_decoder_have_a_config_each() -> None:
    config = autoencoder_config(transformer_config())
    encoder, decoder = coder_configs(config)
    assert encoder["ch_0"] == config.encoder_ch_0
    assert decoder["ch_max"] == config.decoder_ch_max
    assert encoder["encoder_blocks_per_stage"] == list(config.encoder_blocks_per_stage)
    assert decoder["decoder_blocks_per_stage"] == list(config.decoder_blocks_per_stage)
    assert encoder["latent_channels"] == decoder["latent_channels"] == config.latent_channels
