"""FastVideo's Waypoint port, run: where its assumptions hold it agrees with the reference, elsewhere it is caught."""

import importlib
import importlib.util
import logging
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.parity.implementations import Capture
from waypoint_parity.candidate.fastvideo import source
from waypoint_parity.candidate.fastvideo.adapter import FastVideoAdapter
from waypoint_parity.candidate.fastvideo.port import Port, load_port, renamed
from waypoint_parity.fixtures.tiny import write_checkpoint
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.lockstep import Side
from waypoint_parity.harness.explain.blame.case import load_case
from waypoint_parity.harness.explain.blame.journal import Journal
from waypoint_parity.harness.explain.blame.search import Search
from waypoint_parity.harness.explain.blame.text import blame_lines
from waypoint_parity.harness.families.waypoint.draws import image_tensor, make_scenario
from waypoint_parity.harness.judge.comparison import Comparison, Verdict
from waypoint_parity.harness.judge.judgement import Judgement, fixed_tolerance
from waypoint_parity.harness.judge.live import lockstep
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import DTYPES, Numerics
from waypoint_parity.harness.run.process_settings import ProcessSettings
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording

# Its causal Wan is tested at another revision.
FOUND = importlib.util.find_spec("fastvideo")
pytestmark = pytest.mark.skipif(
    FOUND is None or not source.TESTED.is_in(Path(FOUND.origin or "").parent),
    reason=f"FastVideo is not importable at the revision with Waypoint; {source.TESTED.install}",
)

FASTVIDEO = "waypoint_parity.candidate.fastvideo.adapter:FastVideoAdapter"
WORLD_ENGINE = "waypoint_parity.reference.world_engine.adapter:WorldEngineAdapter"
FRAMES = 6
# One head width is the port's, the other is not.
SUPPORTED = {"d_model": 128, "n_heads": 2, "prompt_embedding_dim": 64}
OTHER_HEAD_WIDTH = {"d_model": 64, "n_heads": 2, "prompt_embedding_dim": 64}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Checkpoint]:
    """Checkpoints by their head width."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        64: open_checkpoint(write_checkpoint(folder / "64", **SUPPORTED)),
        32: open_checkpoint(write_checkpoint(folder / "32", **OTHER_HEAD_WIDTH)),
    }


@pytest.fixture(params=["eager", WORLD_ENGINE])
def reference(request: pytest.FixtureRequest) -> str:
    """What the port is judged by."""
    if request.param == WORLD_ENGINE and importlib.util.find_spec("world_engine") is None:
        pytest.skip("the official package world_engine is not importable")
    name: str = request.param
    return name


def photograph() -> Image.Image:
    pixels = torch.randint(0, 256, (360, 640, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def scenario_for(checkpoint: Checkpoint, *, seed: int = 3, image: bool = False, frames: int = FRAMES) -> Scenario:
    return make_scenario(
        checkpoint.geometry,
        name="walk",
        units=frames,
        seed=seed,
        prompt_tokens=6,
        prompt_padding=2,
        image=image_tensor(photograph()) if image else None,
    )


def numerics(dtype: str = "fp32", *options: str) -> Numerics:
    return Numerics(DTYPES[dtype], torch.device("cpu"), options=options)


def compare(
    reference: str,
    candidate: str,
    checkpoint: Checkpoint,
    scenario: Scenario,
    *,
    dtype: str = "fp32",
) -> Comparison:
    """Run both in lockstep."""
    sides = [Side(name, registry.load(name, checkpoint, numerics(dtype))) for name in (reference, candidate)]
    return lockstep(*sides, checkpoint, scenario, Judgement(fixed_tolerance(checkpoint.family, dtype)))


def worst(comparison: Comparison, site: str) -> float:
    return max(rung.distance for rung in comparison.sites if rung.site == site)


class TestHeadWidth64:
    def test_parity_holds_at_every_site(self, reference: str, checkpoints: dict[int, Checkpoint]) -> None:
        comparison = compare(reference, FASTVIDEO, checkpoints[64], scenario_for(checkpoints[64], image=True))
        assert comparison.worst is not None
        print(f"against {reference}: worst {comparison.worst}; latents {worst(comparison, 'latent'):.1e}")
        assert comparison.verdict is Verdict.WITHIN_NOISE
        assert comparison.compared == comparison.expected
        assert comparison.worst.distance <= 3e-6
        assert worst(comparison, "latent") <= 4e-7
        assert max(metrics.max_abs for metrics in comparison.pictures) <= 1

    def test_parity_holds_in_bf16(self, checkpoints: dict[int, Checkpoint]) -> None:
        comparison = compare("eager", FASTVIDEO, checkpoints[64], scenario_for(checkpoints[64], frames=2), dtype="bf16")
        print(f"worst {comparison.worst}")
        assert comparison.verdict is Verdict.WITHIN_NOISE
        assert comparison.compared == comparison.expected

    def test_its_own_noise_is_seeded_seed_plus_frame(self, checkpoints: dict[int, Checkpoint]) -> None:
        """A scenario recorded with the stage's default seed has the same noise, one with another seed has not."""
        own = f"{FASTVIDEO}+own-noise"
        same = compare("eager", own, checkpoints[64], scenario_for(checkpoints[64], seed=0))
        assert same.verdict is Verdict.WITHIN_NOISE
        other = compare("eager", own, checkpoints[64], scenario_for(checkpoints[64], seed=1))
        assert other.verdict is Verdict.INCOMPARABLE
        assert other.first is not None
        assert other.first.site == "input.noise"

    def test_sessions_of_one_adapter_are_independent(self, checkpoints: dict[int, Checkpoint]) -> None:
        adapter, capture = FastVideoAdapter(checkpoints[64], numerics()), Capture()
        with recording(adapter.sites(), capture) as recorder:
            run(adapter, scenario_for(checkpoints[64], frames=2), checkpoints[64], recorder)
            first = dict(capture.tensors)
            run(adapter, scenario_for(checkpoints[64], frames=2), checkpoints[64], recorder)
        assert [name for name, tensor in first.items() if not torch.equal(capture.tensors[name], tensor)] == []


class TestHeadWidth32:
    def test_the_prompt_attention_of_block_0_is_named(self, reference: str, checkpoints: dict[int, Checkpoint]) -> None:
        """Its head width is fixed at 64."""
        comparison = compare(reference, FASTVIDEO, checkpoints[32], scenario_for(checkpoints[32]))
        assert comparison.verdict is Verdict.DIVERGED
        assert comparison.first is not None
        print(comparison.first)
        assert str(comparison.first.key) == "u0/denoise0/transformer.blocks.0.prompt_cross_attn"

    def test_both_of_its_faults_are_blamed_and_nothing_else(
        self, reference: str, checkpoints: dict[int, Checkpoint], tmp_path: Path
    ) -> None:
        """Its temporal frequencies too are those of head width 64; at clock 0 nothing turns."""
        checkpoint, judgement = checkpoints[32], Judgement(fixed_tolerance(checkpoints[32].family, "fp32"))
        scenario = scenario_for(checkpoint, frames=3)
        case = load_case(reference, FASTVIDEO, checkpoint, numerics(), scenario, judgement)
        blame = Search(case, Journal(tmp_path, case.identity), gains=False).run()
        print("\n".join(blame_lines(blame)))
        assert {cause.name: str(cause.first.key) for cause in blame.causes} == {
            "prompt attention": "u0/denoise0/transformer.blocks.0.prompt_cross_attn",
            "rotation": "u1/denoise0/transformer.blocks.0.attn.q_rope",
        }
        (rotation,) = (cause for cause in blame.causes if cause.part == "rotation")
        assert rotation.explanations[0].kind == "temporal frequencies of another head width"
        assert blame.restored
        assert not blame.contradictions


class TestAgainstItsOwnStage:
    """The streaming stage itself, on the adapter's loaded model, with stand-ins for the pipeline around it."""

    @pytest.mark.parametrize("image", [False, True])
    @pytest.mark.parametrize("dtype", ["fp32", "bf16"])
    def test_with_its_own_noise_the_adapter_makes_the_stages_latents(
        self, checkpoints: dict[int, Checkpoint], image: bool, dtype: str
    ) -> None:
        checkpoint, seed = checkpoints[64], 5
        scenario = scenario_for(checkpoint, image=image, frames=3)
        adapter = FastVideoAdapter(checkpoint, numerics(dtype, "own-noise"))
        adapter.seed = seed
        capture = Capture()
        with recording(adapter.sites(), capture) as recorder:
            run(adapter, scenario, checkpoint, recorder)
        expected = stage_latents(load_port(checkpoint, numerics(dtype)), checkpoint, scenario, DTYPES[dtype], seed)
        last = len(checkpoint.geometry.transformer.scheduler_sigmas) - 2
        for frame, latent in enumerate(expected):
            assert torch.equal(capture.tensors[f"u{frame}/denoise{last}/latent"][:, 0], latent)


def stage_latents(
    port: Port, checkpoint: Checkpoint, scenario: Scenario, dtype: torch.dtype, seed: int
) -> Iterable[Tensor]:
    """The latents [1,C,H,W] that FastVideo's streaming stage makes of a scenario, its noise aside."""
    batch = SimpleNamespace(
        extra={
            "waypoint_prompt_emb": scenario.get("prompt_emb"),
            "waypoint_prompt_pad_mask": scenario.get("prompt_pad_mask"),
        },
        image=None if scenario.get("image") is None else photograph(),
        pil_image=None,
        image_path=None,
        seed=seed,
    )
    sigmas = checkpoint.geometry.transformer.scheduler_sigmas
    settings = SimpleNamespace(dit_config=port.model.config, scheduler_sigmas=sigmas)
    package = source.TESTED.package(source.PACKAGE)
    with source.imported(package), torch.compiler.set_stance("force_eager"):
        stage = import_stages(package).WaypointDenoisingStage(port.model, port.autoencoder, dtype)
        stage.streaming_reset(batch, SimpleNamespace(pipeline_config=settings))
        stage.streaming_step(scenario["button"], scenario["mouse"], scenario["scroll"].unsqueeze(0))
    latents: Tensor = batch.latents
    return latents.unbind(2)


def import_stages(fastvideo: Path) -> Any:
    """FastVideo's module of Waypoint stages, its pipeline's containers replaced by empty ones."""

    def forward_context(**context: object) -> Any:
        return torch.no_grad()

    stand_ins: dict[str, dict[str, Any]] = {
        "attention.backends.sdpa": {"SDPAMetadata": SimpleNamespace},
        "fastvideo_args": {"FastVideoArgs": SimpleNamespace},
        "forward_context": {"set_forward_context": forward_context},
        "pipelines.pipeline_batch_info": {"ForwardBatch": SimpleNamespace},
        "pipelines.stages.base": {"PipelineStage": object},
    }
    for name, contents in stand_ins.items():
        module = ModuleType(f"fastvideo.{name}")
        vars(module).update(contents)
        sys.modules[module.__name__] = module
    for package in ("attention", "attention.backends", "pipelines", "pipelines.stages"):
        module = ModuleType(f"fastvideo.{package}")
        module.__path__ = [str(fastvideo.joinpath(*package.split(".")))]
        sys.modules[module.__name__] = module
    return importlib.import_module("fastvideo.pipelines.stages.waypoint_stages")


def test_the_ports_own_rules_rename_alike(checkpoints: dict[int, Checkpoint]) -> None:
    with source.imported(source.TESTED.package(source.PACKAGE)) as fastvideo:
        rules: dict[str, str] = fastvideo.transformer.WaypointWorldModel.param_names_mapping
    keys = checkpoints[64].weights("transformer")
    for key in keys:
        by_port = key
        for pattern, replacement in rules.items():
            by_port = re.sub(pattern, replacement, by_port)
        assert renamed(key) == by_port
    assert sum(renamed(key) != key for key in keys) == 2 * (3 + 2 + 2)  # blocks, control layers, conditioning


def test_loading_and_running_leaves_the_process_as_it_was(checkpoints: dict[int, Checkpoint]) -> None:
    checkpoint = checkpoints[64]
    before = ProcessSettings.read(), list(logging.getLogger().handlers), logging.getLogger().level
    adapter = FastVideoAdapter(checkpoint, numerics())
    with recording(adapter.sites(), Capture()) as recorder:
        run(adapter, scenario_for(checkpoint, frames=1), checkpoint, recorder)
    after = ProcessSettings.read(), list(logging.getLogger().handlers), logging.getLogger().level
    for name, value in vars(before[0]).items():
        found = vars(after[0])[name]
        assert torch.equal(found, value) if isinstance(value, Tensor) else found == value, name
    assert after[1:] == before[1:]
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert not torch.distributed.is_initialized()
    assert [name for name in sys.modules if name.partition(".")[0] == "fastvideo"] == []


def test_loading_imports_none_of_fastvideos_stack(checkpoints: dict[int, Checkpoint]) -> None:
    script = (
        "import sys, torch\n"
        "from waypoint_parity.harness.run.adapter import Numerics\n"
        "from waypoint_parity.harness.checkpoint.checkpoint import open_checkpoint\n"
        "from waypoint_parity.candidate.fastvideo.adapter import FastVideoAdapter\n"
        f"FastVideoAdapter(open_checkpoint({checkpoints[64].origin!r}), Numerics(torch.float32, torch.device('cpu')))\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(finished.stdout.split())
    assert "torch" in loaded
    assert loaded & {"fastvideo", "torchvision", "diffusers", "transformers", "ray", "accelerate", "peft"} == set()
