"""Waypoint 1.5 as a whole: against its golden packs, against the rules followed literally, compiled, a second time."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.candidate.compiler import needs_compiler
from tests.candidate.conftest import CPU, GOLDEN
from tests.candidate.literal import LiteralModel, decoded_one_by_one, off
from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.candidate.engine import compiled_pass
from waypoint_parity.candidate.session import Schedule
from waypoint_parity.fixtures.tiny import write_waypoint_15
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls, schedule
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import Observation, recording

BOUND = 3e-6
BF16_BOUND, BF16_LATENT_BOUND, BF16_EQUAL = 2e-2, 1e-2, 1e-4
# Of a bf16 session, what comes before any sum whose order an implementation may choose.
SETTLED = (
    *("/denoise_step_emb", "/ctrl_emb", "/transformer.rope_angles", ".cond_head"),
    *(f"f1/denoise0/transformer.blocks.0.attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "q_rope", "k_rope")),
)


def checkpoint_of(pack: str, folder: Path) -> Checkpoint:
    """That of w15-base, where the pack has none of its own; or that with the pack's config."""
    own, base = GOLDEN / pack, GOLDEN / "w15-base"
    if (own / "vae").is_dir():
        return open_checkpoint(own)
    if not (own / "transformer").is_dir():
        return open_checkpoint(base)
    for part in ("transformer", "vae"):
        shutil.copytree(base / part, folder / part)
    shutil.copy(own / "transformer" / "config.json", folder / "transformer" / "config.json")
    return open_checkpoint(folder)


def golden_tensors(pack: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A pack's tensors, and its single pictures, by their names there; latents by the step that made them."""
    tensors = load_file(GOLDEN / pack / "activations.safetensors")
    tensors |= load_file(path) if (path := GOLDEN / pack / "frames.safetensors").is_file() else {}
    tensors |= {f"f{frame}/denoise3/latent": latent for frame, latent in enumerate(tensors.pop("latents"))}
    if "image/latent" in tensors:
        tensors["f0/image0/latent"] = tensors.pop("image/latent")
    # What would come of other policies has a longer name.
    pictures = {name: tensors.pop(name) for name in list(tensors) if "/frame" in name}
    return tensors, {name: picture for name, picture in pictures.items() if name[-6:-1] == "frame"}


@dataclasses.dataclass
class Kept:
    """A sink that keeps the tensors called `names`, which call a unit a frame; or all of them."""

    names: frozenset[str] = frozenset()
    tensors: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def observe(self, seen: Observation) -> None:
        name = f"f{str(seen.key).removeprefix('u')}"
        if not self.names or name in self.names:
            self.tensors[name] = seen.tensor.clone()

    def end_pass(self) -> None:
        pass


def watched(adapter: CandidateAdapter, checkpoint: Checkpoint, scenario: Scenario, *names: str) -> dict[str, Tensor]:
    """What a session shows, of `names` or of everything."""
    sink = Kept(frozenset(names))
    with torch.inference_mode(), recording(adapter.sites(), sink) as recorder:
        run(adapter, scenario, checkpoint, recorder)
    return sink.tensors


def shown_at(picture: str, pack: str) -> str:
    """The name of the site that shows a pack's `picture`. What a seed latent becomes is the first one of unit 0."""
    unit = picture.split("/")[0].replace("image", "f0")
    return f"{unit}/decode{int(pack == 'w15-image' and picture.startswith('f0'))}/frame"


@pytest.mark.parametrize("pack", ["w15-base", "w15-ts2", "w15-image", "w15-gqa", "w15-bf16"])
def test_every_tensor_of_a_golden_pack_agrees(pack: str, tmp_path: Path) -> None:
    checkpoint, bf16 = checkpoint_of(pack, tmp_path / pack), pack == "w15-bf16"
    tensors, pictures = golden_tensors(pack)
    adapter = CandidateAdapter(checkpoint, Numerics(torch.bfloat16 if bf16 else torch.float32, CPU))
    scenario = read_scenario(GOLDEN / pack / "scenario.safetensors")
    seen = watched(adapter, checkpoint, scenario, *tensors, *(shown_at(name, pack) for name in pictures))
    assert tensors.keys() <= seen.keys()

    wrong = {}
    for name, expected in tensors.items():
        if expected.dtype == torch.bool:
            assert torch.equal(seen[name], expected), name
        elif not expected.any():
            assert not seen[name].any(), name
        elif not off(seen[name], expected) <= bound_of(name, bf16=bf16):
            wrong[name] = off(seen[name], expected)
    assert wrong == {}
    assert any(name.endswith(".written") for name in tensors)
    for name, picture in pictures.items():
        levels = 5 if bf16 else 1
        assert (seen[shown_at(name, pack)][int(name[-1])].int() - picture.int()).abs().max() <= levels, name


def bound_of(name: str, *, bf16: bool) -> float:
    if not bf16:
        return BOUND
    if name.endswith(SETTLED) or name in SETTLED:
        return BF16_EQUAL
    return BF16_LATENT_BOUND if name.endswith("/latent") else BF16_BOUND


def test_a_bf16_step_is_computed_in_fp32_and_rounded_once() -> None:
    tensors, _ = golden_tensors("w15-bf16")
    checkpoint = open_checkpoint(GOLDEN / "w15-base")
    adapter = CandidateAdapter(checkpoint, Numerics(torch.bfloat16, CPU))
    scenario = read_scenario(GOLDEN / "w15-bf16" / "scenario.safetensors")
    deltas = Schedule(schedule(scenario, checkpoint.geometry.transformer), torch.bfloat16, CPU).deltas
    assert [delta.item() for delta in deltas] == [-0.1015625, -0.1484375, -0.44921875, -0.30078125]
    adapter.start(None, schedule(scenario, checkpoint.geometry.transformer))
    for frame in (0, 1):
        noise = scenario["noise"][frame].bfloat16()
        step = adapter.running.euler_step(noise, tensors[f"f{frame}/denoise0/velocity"], deltas[0])
        assert torch.equal(step, tensors[f"f{frame}/denoise0/latent"])


GEOMETRIES: dict[str, dict[str, Any]] = {
    "gate, patch 1x2, grid 16x8, dilation 4": {
        "d_model": 128,
        "n_heads": 4,
        "n_kv_heads": 2,
        "gated_attn": True,
        "patch": [1, 2],
        "height": 16,
        "width": 8,
        "global_window": 8,
        "global_pinned_dilation": 4,
        "global_attn_period": 2,
        "local_window": 3,
    },
    "head width 64, grid 8x32, clock ratio 3": {
        "d_model": 128,
        "n_heads": 2,
        "height": 8,
        "width": 32,
        "base_fps": 45,
        "n_layers": 3,
        "global_attn_offset": -2,
        "global_attn_period": 3,
    },
    "no control fusion": {"ctrl_conditioning_period": None, "patch": [1, 1], "width": 6, "height": 4, "base_fps": 30},
}


@pytest.fixture
def small(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(write_waypoint_15(tmp_path / "small", seed=5))


def drawn(checkpoint: Checkpoint, frames: int) -> Iterator[tuple[Tensor, Controls]]:
    """Noise and controls of some frames; scroll values other than -1, 0 and 1."""
    config, generator = checkpoint.geometry.transformer, torch.Generator().manual_seed(9)
    for frame in range(frames):
        noise = torch.randn(1, 1, *config.latent_shape, generator=generator)
        button = torch.randint(2, (config.n_buttons,), generator=generator).float()
        yield noise, Controls(button, torch.randn(2, generator=generator), torch.tensor([frame * 1.5 - 3]))


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_a_session_is_that_of_the_rules_followed_literally(geometry: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_waypoint_15(tmp_path / "checkpoint", seed=7, **geometry))
    config = checkpoint.geometry.transformer
    adapter = CandidateAdapter(checkpoint, Numerics(torch.float32, CPU))
    literal, sigmas = LiteralModel(config, checkpoint.weights("transformer")), torch.tensor(config.scheduler_sigmas)
    latents: list[Tensor] = []
    pixels: list[Tensor] = []
    adapter.engine.latent.register_forward_hook(lambda module, inputs, latent: latents.append(latent[0, 0]))
    adapter.engine.autoencoder.decoder.stream.layers["22"].register_forward_hook(
        lambda module, inputs, y: pixels.append(torch.pixel_shuffle(y, 2))
    )
    list(adapter.start(None, sigmas))
    finished = []
    # Rings of all layers are full, and dilated ones have written a slot twice.
    for frame, (noise, controls) in enumerate(drawn(checkpoint, 10)):
        list(adapter.generate(noise, controls))
        x = noise[0, 0].double()
        for step, (sigma, delta) in enumerate(zip(sigmas.tolist()[:-1], sigmas.diff().double(), strict=True)):
            x = x + delta * literal.velocity(x, sigma, frame, controls)
            assert off(latents[frame * (len(sigmas) - 1) + step], x) < BOUND, (frame, step)
        literal.velocity(x, 0.0, frame, controls)
        literal.remember(frame)
        finished.append(x[None])
    expected = decoded_one_by_one(checkpoint.weights("vae"), torch.stack(finished[:3]))
    for frame, decoded in enumerate(expected):
        assert off(pixels[frame], decoded) < BOUND, frame


def test_each_pass_shows_exactly_its_sites() -> None:
    checkpoint = open_checkpoint(GOLDEN / "w15-base")
    adapter = CandidateAdapter(checkpoint, Numerics(torch.float32, CPU))
    scenario = first_frames(read_scenario(GOLDEN / "w15-image" / "scenario.safetensors"), 1)
    seen = watched(adapter, checkpoint, scenario)
    table = site_table(checkpoint.geometry)
    for at in (("image", 0), ("denoise", 0), ("denoise", 1), ("cache", 0), ("decode", 0), ("decode", 1)):
        prefix = f"f0/{at[0]}{at[1]}/"
        names = [name.removeprefix(prefix) for name in seen if name.startswith(prefix)]
        assert sorted(names) == sorted(row.name for row, _ in table.shown(*at, ("",))), at


def first_frames(scenario: Scenario, frames: int) -> Scenario:
    given = {name: scenario[name][:frames] for name in ("noise", "button", "mouse", "scroll")}
    return dataclasses.replace(scenario.with_tensors(**given), units=frames)


def test_a_second_session_has_the_bits_of_a_fresh_one() -> None:
    checkpoint = open_checkpoint(GOLDEN / "w15-base")
    seeded = first_frames(read_scenario(GOLDEN / "w15-image" / "scenario.safetensors"), 2)
    before = first_frames(read_scenario(GOLDEN / "w15-base" / "scenario.safetensors"), 4)
    fresh, used = (CandidateAdapter(checkpoint, Numerics(torch.float32, CPU)) for _ in range(2))
    watched(used, checkpoint, before, "none")
    expected, again = watched(fresh, checkpoint, seeded), watched(used, checkpoint, seeded)
    assert expected.keys() == again.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, again[name])] == []


def test_what_the_rotation_site_hands_back_turns_every_layer_of_that_pass_alone(small: Checkpoint) -> None:
    adapter = CandidateAdapter(small, Numerics(torch.float32, CPU))
    (noise, controls), *_ = drawn(small, 1)
    site = adapter.sites()["transformer.rope_angles"]
    passes = {"plain": [], "patched": []}
    for name, seen in passes.items():
        hooks = [
            block.attn.q_rope.register_forward_hook(lambda module, inputs, q, seen=seen: seen.append(q))
            for block in adapter.engine.model.layers
        ]
        if name == "patched":
            hooks.append(site.module.register_forward_hook(in_the_last_pass(site)))
        # Three steps, and the pass that is remembered.
        list(adapter.start(None, torch.tensor([1.0, 0.75, 0.3, 0.0])))
        list(adapter.generate(noise, controls))
        for hook in hooks:
            hook.remove()
    layers = small.geometry.transformer.n_layers
    same = [torch.equal(one, other) for one, other in zip(*passes.values(), strict=True)]
    assert same == [True] * (3 * layers) + [False] * layers


def in_the_last_pass(site: Any) -> Callable[..., Any]:
    """A hook that turns nothing in the fourth pass of a frame, through the site's own layout."""
    calls: list[Tensor] = []

    def still(module: object, inputs: Any, rotation: Any) -> Any:
        calls.append(site.layout(rotation, inputs))
        assert torch.equal(calls[-1], calls[0])
        nothing = torch.stack((torch.ones_like(calls[0][0]), torch.zeros_like(calls[0][1])))
        return site.restore(nothing, rotation) if len(calls) == 4 else rotation

    return still


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_one_graph_serves_all_frames_and_agrees_with_the_eager_pass(small: Checkpoint) -> None:
    # Frames 0 to 4: both rings fill, and the local one wraps.
    adapter = CandidateAdapter(small, Numerics(torch.float32, CPU))
    expected = latents_of(adapter, small)
    graphs = 0

    def counted(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        compiled: Callable[..., Any] = torch._inductor.compile(graph, inputs)
        return compiled

    torch.compiler.reset()
    adapter.engine.transformer = compiled_pass(adapter.engine.model, fullgraph=True, backend=counted)
    actual = latents_of(adapter, small)
    torch.compiler.reset()
    assert graphs == 1
    assert max(map(off, actual, expected)) < 1e-5


@torch.no_grad()
def latents_of(adapter: CandidateAdapter, checkpoint: Checkpoint) -> list[Tensor]:
    """The latent after every step of five frames."""
    latents: list[Tensor] = []
    hook = adapter.engine.latent.register_forward_hook(lambda module, inputs, latent: latents.append(latent))
    list(adapter.start(None, torch.tensor(checkpoint.geometry.transformer.scheduler_sigmas)))
    for noise, controls in drawn(checkpoint, 5):
        list(adapter.generate(noise, controls))
    hook.remove()
    return latents
