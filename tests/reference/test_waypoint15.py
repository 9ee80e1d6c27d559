"""The reference as Waypoint 1.5: against what the official package computed, and on geometries that no pack has."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.parity.implementations import GOLDEN, Capture, by_pack_name
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.compare.tensor_error import tensor_error
from waypoint_parity.harness.families.waypoint.config import TaehvConfig, TransformerConfig, taehv_sizes
from waypoint_parity.harness.families.waypoint.inventory import transformer_keys
from waypoint_parity.harness.families.waypoint.scenario import Controls, Inputs
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.judge.noise_floor.measure import against_itself
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.registry import load
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.harness.run.session import run
from waypoint_parity.harness.run.taps import recording
from waypoint_parity.reference.eager.adapter import EagerAdapter
from waypoint_parity.reference.eager.formulations import FORMULATIONS
from waypoint_parity.reference.eager.generations import step_in_fp32
from waypoint_parity.reference.eager.math import rms_norm
from waypoint_parity.reference.eager.model import WorldModel, load_world_model
from waypoint_parity.reference.eager.session import Session
from waypoint_parity.reference.eager.taehv import Taehv, load_taehv

CPU = torch.device("cpu")
FP32, BF16 = Numerics(torch.float32, CPU), Numerics(torch.bfloat16, CPU)
PACKS = ("w15-base", "w15-ts2", "w15-image", "w15-gqa", "w15-bf16")
# By the packs' README.
FP32_BOUND, BF16_BOUND, BF16_LATENT_BOUND, BF16_EQUAL = 3e-6, 2e-2, 1e-2, 1e-4
ALIKE_IN_BF16 = ("denoise_step_emb", "ctrl_emb", "rope_angles", "cond_head")
BEFORE_ATTENTION = ("q_proj", "k_proj", "v_proj", "q_rope", "k_rope")


def checkpoint_of(pack: str) -> Checkpoint:
    """The checkpoint that a pack was made with; w15-ts2 has a config of its own alone."""
    checkpoint = open_checkpoint(GOLDEN / ("w15-gqa" if pack == "w15-gqa" else "w15-base"))
    if pack != "w15-ts2":
        return checkpoint
    values = json.loads((GOLDEN / pack / "transformer" / "config.json").read_text())
    config = replace(checkpoint.geometry.transformer, base_fps=values["base_fps"])
    return replace(checkpoint, geometry=replace(checkpoint.geometry, transformer=config))


def scenario_of(pack: str) -> Scenario:
    return read_scenario(GOLDEN / pack / "scenario.safetensors")


def captured(adapter: EagerAdapter, scenario: Scenario, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Every tensor of a session, by its name in a pack."""
    capture = Capture()
    with recording(adapter.sites(), capture) as recorder:
        run(adapter, scenario, checkpoint, recorder)
    return by_pack_name(capture.tensors)


@dataclass(frozen=True)
class Played:
    """A pack, and what the reference shows on its scenario."""

    pack: str
    seen: dict[str, Tensor]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The official tensors, by the names under which they are seen."""
        golden = load_file(GOLDEN / self.pack / "activations.safetensors")
        named = {f"f{frame}/denoise3/latent": latent for frame, latent in enumerate(golden.pop("latents"))}
        if "image/latent" in golden:
            named["f0/image0/latent"] = golden.pop("image/latent")
        return {name: tensor for name, tensor in golden.items() if "/frame" not in name} | named

    @property
    def pictures(self) -> dict[str, tuple[Tensor, Tensor]]:
        """(seen, official) pictures, by their names in the pack."""
        files = [GOLDEN / self.pack / f"{name}.safetensors" for name in ("frames", "activations")]
        golden = {name: tensor for file in files if file.is_file() for name, tensor in load_file(file).items()}
        found = {}
        for name in (name for name in golden if "/frame" in name and not name.endswith("_seed_not_decoded")):
            unit, picture = name.split("/frame")
            # The seed's pictures are the first of unit 0 where there is a seed.
            step = int(self.pack == "w15-image" and unit == "f0")
            decoded = "f0/decode0" if unit == "image" else f"{unit}/decode{step}"
            found[name] = self.seen[f"{decoded}/frame"][int(picture[0])], golden[name]
        return found

    @property
    def errors(self) -> dict[str, float]:
        """Relative L2 by name. What is zero is to be zero."""
        return {name: tensor_error(self.seen[name], expected).rel_l2 for name, expected in self.tensors.items()}


@pytest.fixture(scope="module", params=PACKS)
def played(request: pytest.FixtureRequest) -> Played:
    pack, checkpoint = request.param, checkpoint_of(request.param)
    adapter = EagerAdapter(checkpoint, BF16 if pack == "w15-bf16" else FP32)
    return Played(pack, captured(adapter, scenario_of(pack), checkpoint))


@pytest.fixture(scope="module")
def second() -> Checkpoint:
    """The checkpoint of w15-base."""
    return checkpoint_of("w15-base")


def few(pack: str, frames: int) -> Scenario:
    """The first frames of a pack's scenario."""
    scenario = scenario_of(pack)
    short = {name: scenario[name][:frames] for name in ("noise", "button", "mouse", "scroll")}
    return replace(scenario.with_tensors(**short), units=frames)


def test_every_golden_site_agrees(played: Played) -> None:
    errors = played.errors
    worst = max(errors, key=lambda name: errors[name])
    print(f"{played.pack}: {len(errors)} tensors, worst relative L2 {errors[worst]:.2e} at {worst}")
    bounds = dict.fromkeys(errors, FP32_BOUND)
    if played.pack == "w15-bf16":
        bounds = {name: BF16_LATENT_BOUND if name.endswith("/latent") else BF16_BOUND for name in errors}
    assert {name: error for name, error in errors.items() if not error <= bounds[name]} == {}


def test_written_masks_are_equal(played: Played) -> None:
    masks = {name: mask for name, mask in played.tensors.items() if name.endswith(".written")}
    assert masks
    assert [name for name, mask in masks.items() if not torch.equal(played.seen[name], mask)] == []


def test_pictures_are_within_one_level(played: Played) -> None:
    if played.pack == "w15-bf16":
        pytest.skip("its pictures are held against those of its own latents, in test_taehv")
    assert played.pictures
    for name, (seen, expected) in played.pictures.items():
        assert int((seen.int() - expected.int()).abs().max()) <= 1, name


def test_statistics_of_every_frame_agree(played: Played) -> None:
    """The packs keep tensors of a few frames, and mean, std, min, max, absmean of all of them."""
    path, bound = GOLDEN / played.pack / "stats.jsonl", 10 * BF16_BOUND if played.pack == "w15-bf16" else 1e-5
    if not path.is_file():
        pytest.skip("the pack has none")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    wrong = []
    for record in records:
        values = played.seen[record["key"]].double()
        found = {"mean": values.mean(), "std": values.std(correction=0), "absmean": values.abs().mean()}
        found |= {"min": values.min(), "max": values.max()}
        size = record["absmean"]
        wrong += [(record["key"], name) for name, value in found.items() if abs(value - record[name]) > bound * size]
    assert records
    assert wrong == []


@pytest.mark.parametrize("played", ["w15-bf16"], indirect=True)
def test_in_bf16_everything_before_the_first_attention_is_equal(played: Played) -> None:
    names = [name for name in played.tensors if name.split(".")[-1] in ALIKE_IN_BF16 or name.endswith(ALIKE_IN_BF16)]
    names += [f"f1/denoise0/transformer.blocks.0.attn.{name}" for name in BEFORE_ATTENTION]
    errors = played.errors
    assert {name: errors[name] for name in names if not errors[name] <= BF16_EQUAL} == {}
    assert {name.split("/")[-1] for name in names} >= {"denoise_step_emb", "ctrl_emb", "transformer.rope_angles"}


def test_in_bf16_a_step_is_computed_in_fp32_and_cast_once() -> None:
    golden = load_file(GOLDEN / "w15-bf16" / "activations.safetensors")
    noise = scenario_of("w15-bf16")["noise"][0].bfloat16()
    change = torch.tensor([0.9]).bfloat16() - torch.tensor([1.0]).bfloat16()
    latent = step_in_fp32(noise, change, golden["f0/denoise0/velocity"])
    assert tensor_error(latent, golden["f0/denoise0/latent"]).rel_l2 <= BF16_EQUAL


@pytest.mark.parametrize("decoded", [True, False])
def test_a_decoder_remembers_a_seed_latent_that_it_decoded(second: Checkpoint, decoded: bool) -> None:
    """`w15-image` holds picture 3 of the first frame after either treatment."""
    session = session_of(second)
    session.decodes_seed = decoded
    shown: list[Tensor] = []
    session.frame.register_forward_hook(lambda module, inputs, output: shown.append(output))
    given = Inputs(few("w15-image", 1))
    assert given.image is not None
    phases = [at.phase for at in play(session, given, second)]
    assert phases == ["image", *["decode"] * decoded, *["denoise"] * 4, "cache", "decode"]
    frames = load_file(GOLDEN / "w15-image" / "frames.safetensors")
    of_treatment = {True: frames["f0/frame3"], False: frames["f0/frame3_seed_not_decoded"]}
    distances = {kind: int((shown[-1][3].int() - frame.int()).abs().max()) for kind, frame in of_treatment.items()}
    assert len(shown) == 1 + decoded
    assert distances[decoded] <= 1
    assert distances[not decoded] > 20


def session_of(checkpoint: Checkpoint) -> Session:
    geometry = checkpoint.geometry
    model = load_world_model(geometry.transformer, checkpoint.weights("transformer"), device=CPU, dtype=torch.float32)
    autoencoder = load_taehv(geometry.autoencoder, checkpoint.weights("vae"), device=CPU, dtype=torch.float32)
    return Session(model, autoencoder, device=CPU, dtype=torch.float32)


def play(session: Session, given: Inputs, checkpoint: Checkpoint) -> Iterator[Any]:
    yield from session.start(None, torch.tensor(checkpoint.geometry.transformer.scheduler_sigmas))
    if given.image is not None:
        yield from session.append_image(given.image)
    for frame in range(given.scenario.units):
        yield from session.generate(given.noise[frame], given.controls(frame))


@pytest.mark.parametrize("numerics", [FP32, BF16], ids=["fp32", "bf16"])
def test_a_second_session_gives_the_bits_of_a_fresh_one(second: Checkpoint, numerics: Numerics) -> None:
    image = few("w15-image", 1)
    other = few("w15-base", 1).with_tensors(image=255 - image["image"])
    used, fresh = EagerAdapter(second, numerics), EagerAdapter(second, numerics)
    captured(used, other, second)
    again, expected = (captured(adapter, image, second) for adapter in (used, fresh))
    assert again.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(again[name], expected[name])] == []


def test_it_has_every_site_and_every_pass_shows_its_sites_once(second: Checkpoint) -> None:
    adapter, table = EagerAdapter(second, FP32), site_table(second.geometry)
    sites = adapter.sites()
    absent = {"input.prompt_emb", "input.prompt_pad_mask"}
    assert sites.keys() | absent == {row.name for row in table.rows}
    shown: Counter[str] = Counter()
    for name, site in sites.items():
        site.module.register_forward_hook(lambda module, inputs, output, name=name: shown.update([name]))
    scenario = second.family.prepared(few("w15-image", 1), second.geometry)
    passes = adapter.session(scenario)
    announced = [at for _, at in second.family.session(scenario, second.geometry)]
    followed = []
    at = next(passes, None)
    while at is not None:
        following = next(passes, None)
        step = at[1]._replace(sigma=None)
        assert shown == Counter(row.name for row, _ in table.shown(step.phase, step.step, step.branches)), step
        followed.append(step)
        shown.clear()
        at = following
    assert followed == announced


def test_what_is_put_in_place_of_the_angles_turns_every_layer(second: Checkpoint) -> None:
    adapter = EagerAdapter(second, FP32)
    sites = adapter.sites()
    unturned = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1, 1)
    sites["transformer.rope_angles"].module.register_forward_hook(
        lambda module, inputs, output: unturned.expand_as(output)
    )
    seen = captured(adapter, few("w15-base", 2), second)
    config = second.geometry.transformer
    for layer in range(config.n_layers):
        raw = seen[f"f1/denoise2/transformer.blocks.{layer}.attn.q_proj"].unflatten(-1, (config.n_heads, -1))
        q = rms_norm(raw.transpose(1, 2))
        expected = torch.cat([q[..., 0::2], q[..., 1::2]], dim=-1)
        torch.testing.assert_close(seen[f"f1/denoise2/transformer.blocks.{layer}.attn.q_rope"], expected)


@pytest.mark.parametrize("formulation", FORMULATIONS)
def test_a_formulation_computes_the_same_differently(formulation: str, second: Checkpoint) -> None:
    plain, other = load("eager", second, FP32), load(f"eager+{formulation}", second, FP32)
    errors = against_itself(plain, other, second, few("w15-base", 4))
    assert 0 < max(error.rel_l2 for key, error in errors.items() if key.site != "frame") < FP32_BOUND


def test_what_a_claim_must_name_is_described(second: Checkpoint) -> None:
    described = {numerics.dtype_name: EagerAdapter(second, numerics).describe() for numerics in (FP32, BF16)}
    assert {dtype: told["autoencoder"] for dtype, told in described.items()} == {"fp32": "float32", "bf16": "bfloat16"}
    assert described["fp32"].keys() >= {"reproduces", "rope", "noise conditioner", "sampler", "seed latent"}
    assert "1.5" in described["fp32"]["reproduces"]


# What no pack has, as changes to w15-base's config. 45 frames against 15 latents a second: clock ratio 3.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "gate, tall grid, patch 1x2": {"gated_attn": True, "height": 16, "width": 8, "patch": (1, 2)},
    "wide grid, heads of 64, dilation 4, ratio 3, no fusion": {
        "height": 8,
        "width": 32,
        "tokens_per_frame": 256,
        "d_model": 128,
        "global_window": 8,
        "global_pinned_dilation": 4,
        "base_fps": 45,
        "ctrl_conditioning_period": None,
    },
    "no control, three heads on one, other band and base": {
        "ctrl_conditioning": None,
        "d_model": 96,
        "n_heads": 3,
        "rope_nyquist_frac": 0.5,
        "rope_theta": 500.0,
        "global_attn_offset": 1,
    },
}
FRAMES = 14


@dataclass(frozen=True)
class Walk:
    """A session of a geometry with random weights: everything shown, (frame, phase, name) -> tensors in order."""

    config: TransformerConfig
    shown: dict[tuple[int, str, str], list[Tensor]]


@pytest.fixture(scope="module", params=GEOMETRIES)
def walk(request: pytest.FixtureRequest, second: Checkpoint, randomise: Callable[[nn.Module], None]) -> Walk:
    torch.manual_seed(0)
    config = replace(second.geometry.transformer, **GEOMETRIES[request.param])
    codec = TaehvConfig(latent_channels=4, encoder_width=3, decoder_widths=(4, 3, 3, 3), **taehv_sizes(config))
    model, autoencoder = WorldModel(config), Taehv(codec)
    randomise(model)
    randomise(autoencoder)
    session = Session(model, autoencoder, device=CPU, dtype=torch.float32)
    shown: dict[tuple[int, str, str], list[Tensor]] = defaultdict(list)
    at = (0, "")

    def keep(output: object, site: str) -> None:
        if isinstance(output, Tensor):
            shown[*at, site].append(output)

    for name, module in session.named_modules():
        site = name.removeprefix("model.")
        module.register_forward_hook(lambda module, inputs, output, site=site: keep(output, site))
    list(session.start(None, torch.tensor([1.0, 0.4, 0.0])))
    for each in session.append_image(torch.randint(0, 256, (4, *codec.picture_size, 3), dtype=torch.uint8)):
        at = 0, each.phase
    for frame in range(1, FRAMES):
        controls = Controls(torch.rand(config.n_buttons).round(), torch.randn(2), torch.randn(1))
        for each in session.generate(torch.randn(1, 1, *config.latent_shape), controls):
            at = frame, each.phase
    return Walk(config, shown)


def test_a_geometry_has_its_keys_and_computes_finite_values(walk: Walk) -> None:
    shapes = {key: tuple(tensor.shape) for key, tensor in WorldModel(walk.config).state_dict().items()}
    assert shapes == transformer_keys(walk.config)
    assert all(tensor.isfinite().all() for tensors in walk.shown.values() for tensor in tensors)
    velocity, pictures = walk.shown[FRAMES - 1, "denoise", "velocity"], walk.shown[FRAMES - 1, "decode", "frame"]
    assert [tuple(tensor.shape) for tensor in velocity] == [(1, 1, *walk.config.latent_shape)] * 2
    assert [tuple(tensor.shape) for tensor in pictures] == [(4, *taehv_sizes(walk.config)["picture_size"], 3)]
    fused = {name for _, _, name in walk.shown if name.endswith("ctrl_mlpfusion")}
    assert bool(fused) == bool(walk.config.ctrl_conditioning and walk.config.ctrl_conditioning_period)


def angle(config: TransformerConfig, column: int, row: int, clock: int, pair: int) -> float:
    """The angle of a pair, by the formula in Python's numbers."""
    eighth = config.head_dim // 8
    if pair < 2 * eighth:
        cell, count = (column, config.width) if pair < eighth else (row, config.height)
        top, steps = config.rope_nyquist_frac * min(config.height, config.width) / 2, eighth // 2
        step = pair % eighth // 2
        frequency = 1 + (top - 1) * step / (steps - 1) if steps > 1 else 1.0
        return ((2 * cell + 1) / count - 1) * math.pi * frequency
    step = (pair - 2 * eighth) // 2
    return clock * config.clock_ratio / config.rope_theta ** (2 * step / (config.head_dim / 4))


def test_angles_are_those_of_the_formula_and_of_the_rotation_clock(walk: Walk) -> None:
    config = walk.config
    for frame, phase in ((0, "image"), (1, "denoise"), (FRAMES - 1, "cache")):
        grid = [(row, column) for row in range(config.height) for column in range(config.width)]
        angles = [
            [angle(config, column, row, frame, pair) for pair in range(config.head_dim // 2)] for row, column in grid
        ]
        exact = torch.tensor(angles, dtype=torch.float64)
        expected = torch.stack([exact.cos(), exact.sin()])[:, None, None]
        found = walk.shown[frame, phase, "transformer.rope_angles"][0]
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_rings_hold_the_frames_of_the_ring_clock_and_hide_what_is_replaced(walk: Walk) -> None:
    config, tokens = walk.config, walk.config.tokens_per_frame
    for layer in range(config.n_layers):
        long = (layer - config.global_attn_offset) % config.global_attn_period == 0  # type: ignore[operator]
        frames = config.global_window if long else config.local_window
        dilation = config.global_pinned_dilation if long else 1
        held: dict[int, int] = {}
        ring, block = f"kv_cache.layers.{layer}", f"transformer.blocks.{layer}"
        for frame in range(FRAMES):
            replaced = frame // dilation % (frames // dilation) if frame % dilation == 0 else None
            slots = [slot in held and slot != replaced for slot in range(frames)]
            visible = torch.tensor([*slots, True]).repeat_interleave(tokens)
            phase = "cache" if frame else "image"
            assert all(mask.equal(visible) for mask in walk.shown[frame, phase, f"{ring}.visible"])
            assert all(mask.equal(visible) for mask in walk.shown.get((frame, "denoise", f"{ring}.visible"), []))
            if replaced is not None:
                held[replaced] = frame
            written = torch.tensor([*(slot in held for slot in range(frames)), True]).repeat_interleave(tokens)
            assert walk.shown[frame, phase, f"{ring}.written"][0].equal(written)
        kv = walk.shown[FRAMES - 1, "cache", f"{ring}.kv"][0]
        assert kv.shape[-2] == (frames + 1) * tokens
        for slot, frame in {**held, frames: FRAMES - 1}.items():
            k = walk.shown[frame, "cache" if frame else "image", f"{block}.attn.k_rope"][0]
            assert kv[0, ..., slot * tokens : (slot + 1) * tokens, :].equal(k)


def test_no_frame_is_the_last(second: Checkpoint) -> None:
    session = session_of(second)
    list(session.start(None, torch.tensor([1.0, 0.0])))
    session.clock = session.model.config.n_frames
    given = Inputs(few("w15-base", 1))
    assert [at.phase for at in session.generate(given.noise[0], given.controls(0))] == ["denoise", "cache", "decode"]


def test_scroll_is_the_number_itself(second: Checkpoint) -> None:
    embedding = session_of(second).model.ctrl_emb
    mouse, button = torch.zeros(2), torch.zeros(second.geometry.transformer.n_buttons)
    joined = torch.cat([mouse, button, torch.tensor([2.5])]).view(1, 1, -1)
    assert embedding(mouse, button, torch.tensor([2.5])).equal(embedding.mlp(joined))
