from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.families.waypoint.sites import site_table
from waypoint_parity.harness.run.adapter import Numerics, Pass
from waypoint_parity.reference.eager.adapter import EagerAdapter

CPU = torch.device("cpu")


@pytest.fixture
def adapter(checkpoint: Checkpoint) -> EagerAdapter:
    return EagerAdapter(checkpoint, Numerics(torch.float32, CPU))


def test_it_has_every_site(adapter: EagerAdapter, checkpoint: Checkpoint) -> None:
    assert adapter.sites().keys() == {row.name for row in site_table(checkpoint.geometry).rows}


def test_every_pass_shows_its_sites_once(
    adapter: EagerAdapter,
    checkpoint: Checkpoint,
    prompt: Prompt,
    controls: Controls,
    sigmas: Tensor,
    scenario: dict[str, Tensor],
) -> None:
    shown: Counter[str] = Counter()
    for name, site in adapter.sites().items():
        site.module.register_forward_hook(lambda module, inputs, output, name=name: shown.update([name]))

    def session() -> Iterator[Pass]:
        yield from adapter.start(prompt, sigmas)
        yield from adapter.append_image(scenario["image"])
        yield from adapter.generate(scenario["noise"][0], controls)

    passes, table = session(), site_table(checkpoint.geometry)
    at = next(passes, None)
    while at is not None:
        following = next(passes, None)
        assert shown == Counter(row.name for row, _ in table.shown(at.phase, at.step, at.branches)), at
        shown.clear()
        at = following


def test_sites_show_tensors_in_the_official_layout(
    adapter: EagerAdapter,
    checkpoint: Checkpoint,
    prompt: Prompt,
    controls: Controls,
    sigmas: Tensor,
    scenario: dict[str, Tensor],
) -> None:
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda module, inputs, output: shapes.update({name: tuple(output.shape)}))

    for name, site in adapter.sites().items():
        assert site.layout is None
        note(name, site.module)
    for generator in (adapter.start(prompt, sigmas), adapter.generate(scenario["noise"][0], controls)):
        list(generator)
    config = checkpoint.geometry.transformer
    tokens, width = config.tokens_per_frame, config.d_model
    expected = {
        "denoise_step_emb": (1, 1, width),
        "ctrl_emb": (1, 1, width),
        "patchify": (1, width, config.height, config.width),
        "transformer.blocks.0": (1, tokens, width),
        "transformer.blocks.0.cond_head": (6, 1, 1, width),
        "transformer.blocks.0.attn": (1, tokens, width),
        "transformer.blocks.0.attn.gate_proj": (1, tokens, config.n_heads),
        "transformer.blocks.0.attn.q_proj": (1, tokens, width),
        "transformer.blocks.0.attn.k_proj": (1, tokens, config.n_kv_heads * config.head_dim),
        "transformer.blocks.0.attn.q_rope": (1, config.n_heads, tokens, config.head_dim),
        "transformer.blocks.0.attn.k_rope": (1, config.n_kv_heads, tokens, config.head_dim),
        "kv_cache.layers.1.kv": (2, 1, config.n_kv_heads, (config.local_window + 1) * tokens, config.head_dim),
        "kv_cache.layers.1.written": ((config.local_window + 1) * tokens,),
        "out_norm": (1, tokens, width),
        "velocity": (1, 1, *config.latent_shape),
        "latent": (1, 1, *config.latent_shape),
        "frame": (360, 640, 3),
    }
    assert {name: shapes[name] for name in expected} == expected


def test_it_refuses_to_compile(checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError) as refusal:
        EagerAdapter(checkpoint, Numerics(torch.float32, CPU, compiled=True))
    assert refusal.value.found == "compiled = True"
