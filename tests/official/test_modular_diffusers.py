"""A modular pipeline, loaded and run by diffusers itself, from a repository that is written to disk here.

The pipeline on the hub is not within reach of the tests. The repository here has its layout, its state keys and its
calls; its transformer and autoencoder are the reference's.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.draws import make_scenario
from waypoint_parity.harness.families.waypoint.scenario import Inputs, schedule
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.harness.run.process_settings import ProcessSettings
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.reference.modular_diffusers.adapter import ModularDiffusersAdapter
from waypoint_parity.reference.modular_diffusers.pipeline import PATCHED, PIP_LINE, TRUST

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("diffusers", "transformers", "accelerate")),
    reason=f"diffusers is not installed; {PIP_LINE}",
)

DIFFUSERS = "waypoint_parity.reference.modular_diffusers.adapter:ModularDiffusersAdapter"
SOURCES = Path(__file__).parent / "modular_repository"
HUB_ID, REVISION, OTHER_REVISION = "Somebody/Waypoint-Toy", "a" * 40, "b" * 40


def add_pipeline(folder: Path, *, official: bool = False) -> None:
    """Make a modular repository of a checkpoint in the diffusers layout; its model is the reference's or `official`."""
    shutil.copy(SOURCES / "modular_blocks.py", folder)
    for part, module, name in (("transformer", "model", "ToyWorldModel"), ("vae", "autoencoder", "ToyAutoencoder")):
        shutil.copy(SOURCES / f"{module}.py", folder / part)
        extend(folder / part / "config.json", _class_name=name, auto_map={"AutoModel": f"{module}.{name}"})
    extend(folder / "transformer" / "config.json", official=official)
    extend(
        folder / "modular_config.json",
        _class_name="ToyBlocks",
        auto_map={"ModularPipelineBlocks": "modular_blocks.ToyBlocks"},
    )
    # As on the hub: components are found in the repository by its id. A local copy loads those that it has itself.
    where = {"pretrained_model_name_or_path": HUB_ID, "type_hint": ["diffusers", "AutoModel"]}
    extend(
        folder / "modular_model_index.json",
        _class_name="ModularPipeline",
        _blocks_class_name="ToyBlocks",
        transformer=[None, None, where | {"subfolder": "transformer"}],
        vae=[None, None, where | {"subfolder": "vae"}],
    )


def extend(path: Path, **values: Any) -> None:
    found = json.loads(path.read_bytes()) if path.is_file() else {}
    path.write_text(json.dumps(found | values), "utf-8")


@pytest.fixture(scope="module")
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where diffusers copies remote code to before it runs it."""
    from diffusers.utils import dynamic_modules_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])
        yield


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, modules_cache: None) -> Checkpoint:
    folder = write_checkpoint(tmp_path_factory.mktemp("repository") / "toy")
    checkpoint = open_checkpoint(folder)
    add_pipeline(folder)
    return checkpoint


@pytest.fixture
def scenario(repository: Checkpoint) -> Scenario:
    image = torch.randint(0, 256, (360, 640, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return make_scenario(
        repository.geometry, name="walk", units=4, seed=3, prompt_tokens=6, prompt_padding=2, image=image
    )


@pytest.fixture
def trusting(fp32_on_cpu: Numerics) -> Numerics:
    return replace(fp32_on_cpu, options=(TRUST,))


def compare(checkpoint: Checkpoint, scenario: Scenario, numerics: Numerics) -> Comparison:
    sides = [Side(name, registry.load(name, checkpoint, numerics)) for name in ("eager", f"{DIFFUSERS}+{TRUST}")]
    return lockstep(*sides, checkpoint, scenario, Judgement(fixed_tolerance(checkpoint.family, "fp32")))


class TestSessions:
    @pytest.mark.parametrize(
        "change",
        [
            lambda scenario: scenario,
            lambda scenario: scenario.with_tensors(image=None),
            lambda scenario: scenario.with_tensors(sigmas=torch.tensor([1.0, 0.9, 0.4, 0.0])),
        ],
        ids=["with an image", "without", "another schedule"],
    )
    def test_every_site_of_every_pass_is_the_references(
        self,
        repository: Checkpoint,
        scenario: Scenario,
        fp32_on_cpu: Numerics,
        change: Callable[[Scenario], Scenario],
    ) -> None:
        """The models are the reference's: a pass told wrongly, or an input lost, is all that could differ."""
        comparison = compare(repository, change(scenario), fp32_on_cpu)
        print(f"{comparison.verdict}, worst {comparison.worst}, {comparison.compared} compared")
        assert comparison.verdict is Verdict.IDENTICAL, comparison.first
        assert comparison.compared == comparison.expected

    @pytest.mark.skipif(importlib.util.find_spec("world_engine") is None, reason="world_engine is not importable")
    def test_the_official_modules_are_watched(
        self, tmp_path: Path, modules_cache: None, scenario: Scenario, fp32_on_cpu: Numerics
    ) -> None:
        """The hub's transformer is the package's: its modules return tuples, and one rotation serves all layers."""
        folder = write_checkpoint(tmp_path / "official")
        checkpoint = open_checkpoint(folder)
        add_pipeline(folder, official=True)
        comparison = compare(checkpoint, scenario, fp32_on_cpu)
        print(f"{comparison.verdict}, worst {comparison.worst}, {comparison.compared} compared")
        assert comparison.verdict is Verdict.WITHIN_NOISE, comparison.first
        assert comparison.compared == comparison.expected

    def test_sessions_of_one_adapter_are_independent(
        self, repository: Checkpoint, scenario: Scenario, trusting: Numerics
    ) -> None:
        adapter = ModularDiffusersAdapter(repository, trusting)
        frames = []
        adapter.sites()["frame"].module.register_forward_hook(lambda module, inputs, frame: frames.append(frame))
        for _ in range(2):
            drive(adapter, scenario, frames=2)
        assert torch.equal(frames[0], frames[2])
        assert torch.equal(frames[1], frames[3])
        assert not torch.equal(frames[0], frames[1])

    def test_a_session_may_be_left_in_the_middle_of_a_call(
        self, repository: Checkpoint, scenario: Scenario, trusting: Numerics
    ) -> None:
        adapter = ModularDiffusersAdapter(repository, trusting)
        list(adapter.start(Inputs(scenario).prompt, schedule(scenario, repository.geometry.transformer)))
        passes = adapter.generate(scenario["noise"][0], Inputs(scenario).controls(0))
        assert next(passes) == Pass("denoise", 0, 1.0)
        passes.close()  # type: ignore[attr-defined]
        drive(adapter, scenario, frames=1)

    def test_the_probes_replace(self, repository: Checkpoint, scenario: Scenario, trusting: Numerics) -> None:
        adapter = ModularDiffusersAdapter(repository, trusting)
        latents = []
        sites = adapter.sites()
        sites["velocity"].module.register_forward_hook(lambda module, inputs, velocity: torch.zeros_like(velocity))
        sites["latent"].module.register_forward_hook(lambda module, inputs, latent: latents.append(latent))
        drive(adapter, scenario.with_tensors(image=None), frames=1)
        assert all(torch.equal(latent, scenario["noise"][0]) for latent in latents)
        assert len(latents) == len(repository.geometry.transformer.scheduler_sigmas) - 1


def drive(adapter: ModularDiffusersAdapter, scenario: Scenario, *, frames: int) -> list[Pass]:
    config = adapter._checkpoint.geometry.transformer
    passes = list(adapter.start(Inputs(scenario).prompt, schedule(scenario, config)))
    if scenario.get("image") is not None:
        passes += adapter.append_image(scenario.get("image"))
    for frame in range(frames):
        passes += adapter.generate(scenario["noise"][frame], Inputs(scenario).controls(frame))
    return passes


class TestAnnouncing:
    def test_every_pass_is_announced_in_order(
        self, repository: Checkpoint, scenario: Scenario, trusting: Numerics
    ) -> None:
        frame = [("denoise", 0), ("denoise", 1), ("cache", 0), ("decode", 0)]
        passes = drive(ModularDiffusersAdapter(repository, trusting), scenario, frames=2)
        assert [(at.phase, at.step) for at in passes] == [("prompt", 0), ("image", 0), *frame, *frame]

    def test_it_has_every_site(self, repository: Checkpoint, trusting: Numerics) -> None:
        adapter = ModularDiffusersAdapter(repository, trusting)
        required = {row.name for row in site_table(repository.geometry).rows if not row.optional}
        assert adapter.sites().keys() == required

    def test_what_the_pipeline_raises_is_raised_to_the_caller(
        self, repository: Checkpoint, scenario: Scenario, trusting: Numerics
    ) -> None:
        adapter = ModularDiffusersAdapter(repository, trusting)
        list(adapter.start(Inputs(scenario).prompt, schedule(scenario, repository.geometry.transformer)))
        with pytest.raises(RuntimeError, match="size"):
            list(adapter.generate(scenario["noise"][0][..., :1], Inputs(scenario).controls(0)))

    def test_an_image_after_a_frame_is_refused(
        self, repository: Checkpoint, scenario: Scenario, trusting: Numerics
    ) -> None:
        adapter = ModularDiffusersAdapter(repository, trusting)
        drive(adapter, scenario, frames=1)
        assert scenario.get("image") is not None
        with pytest.raises(UserError, match="at the beginning of a session only"):
            list(adapter.append_image(scenario.get("image")))


class TestLoading:
    def test_patches_are_the_pipelines_own(self, repository: Checkpoint, trusting: Numerics) -> None:
        adapter = ModularDiffusersAdapter(repository, replace(trusting, options=(TRUST, PATCHED)))
        assert hasattr(adapter._pipe.transformer, "patched")
        assert adapter.describe()["modules"] == "apply_inference_patches"

    def test_the_manifest_tells_which_code_was_run(self, repository: Checkpoint, trusting: Numerics) -> None:
        described = ModularDiffusersAdapter(repository, trusting).describe()
        assert described["version"].startswith("diffusers ")
        assert described["revision"].startswith("a folder, code sha256 ")

    def test_a_folder_without_a_pipeline_is_refused(
        self, tmp_path: Path, modules_cache: None, trusting: Numerics
    ) -> None:
        plain = open_checkpoint(write_checkpoint(tmp_path / "plain"))
        with pytest.raises(UserError, match="no modular pipeline"):
            ModularDiffusersAdapter(plain, trusting)

    def test_a_pipeline_that_takes_no_noise_is_refused(
        self, tmp_path: Path, modules_cache: None, trusting: Numerics
    ) -> None:
        folder = write_checkpoint(tmp_path / "deaf")
        checkpoint = open_checkpoint(folder)
        add_pipeline(folder)
        blocks = folder / "modular_blocks.py"
        blocks.write_text(blocks.read_text("utf-8").replace('"image", "latents", "scheduler', '"image", "scheduler'))
        with pytest.raises(UserError, match="does not take what a session hands in") as caught:
            ModularDiffusersAdapter(checkpoint, trusting)
        assert caught.value.found == "no input latents"

    def test_weights_that_lie_in_another_repository_are_refused(
        self, tmp_path: Path, modules_cache: None, trusting: Numerics
    ) -> None:
        folder = write_checkpoint(tmp_path / "scattered")
        checkpoint = open_checkpoint(folder)
        add_pipeline(folder)
        (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(UserError, match="no modular pipeline") as caught:
            ModularDiffusersAdapter(checkpoint, trusting)
        assert HUB_ID in caught.value.found

    def test_loading_and_running_leaves_the_settings_of_the_process_as_they_were(
        self, repository: Checkpoint, scenario: Scenario, trusting: Numerics
    ) -> None:
        before = vars(ProcessSettings.read())
        drive(ModularDiffusersAdapter(repository, trusting), scenario, frames=1)
        for name, found in vars(ProcessSettings.read()).items():
            assert torch.equal(found, before[name]) if isinstance(found, torch.Tensor) else found == before[name], name

    def test_from_the_hub_comes_the_pinned_revision_or_nothing(self, tmp_path: Path) -> None:
        """Offline, with the local hub cache that a download of one revision leaves behind."""
        snapshot = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}" / "snapshots" / REVISION
        add_pipeline(write_checkpoint(snapshot))
        script = (
            "import dataclasses, sys, torch\n"
            "from waypoint_parity.harness.run.adapter import Numerics\n"
            "from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint\n"
            "from waypoint_parity.reference.modular_diffusers.adapter import ModularDiffusersAdapter\n"
            "plain, origin = sys.argv[1:]\n"
            "checkpoint = dataclasses.replace(open_checkpoint(plain), origin=origin)\n"
            "numerics = Numerics(torch.float32, torch.device('cpu'), options=('trust-remote-code',))\n"
            "print(ModularDiffusersAdapter(checkpoint, numerics).describe()['revision'])\n"
        )
        plain = write_checkpoint(tmp_path / "plain")
        offline = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}

        def load(revision: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", script, str(plain), f"{HUB_ID}@{revision}"]
            return subprocess.run(command, env=offline, capture_output=True, text=True, check=False)

        pinned = load(REVISION)
        assert pinned.stdout.strip() == f"{HUB_ID}@{REVISION}", pinned.stderr
        absent = load(OTHER_REVISION)
        assert absent.returncode != 0
        assert "no modular pipeline of Waypoint could be loaded" in absent.stderr
