"""A session: what it announces, what it computes once, what it forgets, what a patch reaches."""

from collections import Counter
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.candidate.conftest import begin, generate
from waypoint_parity.candidate.session import Session
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Inputs
from waypoint_parity.harness.run.scenario import Scenario


def count_calls(modules: Mapping[str, nn.Module]) -> Counter[str]:
    calls: Counter[str] = Counter()
    for name, module in modules.items():
        module.register_forward_hook(lambda module, inputs, output, name=name: calls.update([name]))
    return calls


def test_every_step_is_announced_before_it_runs(session: Session, scenario: Scenario) -> None:
    calls = count_calls({"pass": session.engine.model, "decode": session.engine.autoencoder.decoder})
    controls = Inputs(scenario).controls(0)
    announced = []
    for step in session.generate(scenario["noise"][0], controls.button, controls.mouse, controls.scroll):
        announced.append((step.phase, step.number, calls["pass"], calls["decode"]))
    assert announced == [
        *(("denoise", number, number, 0) for number in range(4)),
        ("cache", 0, 4, 0),
        ("decode", 0, 5, 0),
    ]
    assert calls["decode"] == 1


def test_conditioning_is_computed_once_per_sigma_controls_and_rotation_once_per_frame_the_prompt_once(
    session: Session, scenario: Scenario
) -> None:
    model = session.engine.model
    fusion, prompt_attention = model.layers[0].ctrl_mlpfusion, model.layers[0].prompt_cross_attn
    assert fusion is not None
    assert prompt_attention is not None
    calls = count_calls(
        {
            "noise": model.noise_conditioner,
            "modulations": model.modulator,
            "control": model.control_embedding,
            "fusion": fusion.c_proj,
            "rotation": model.rope,
            "prompt": prompt_attention.kv,
            "pass": model,
        }
    )
    for frame in range(3):
        generate(session, scenario, frame)
    # Five levels: four of the schedule and the cache pass's 0. The prompt was read when the session began.
    assert calls == {"pass": 15, "noise": 5, "modulations": 5, "control": 3, "fusion": 3, "rotation": 3}


def test_sites_of_remembered_values_are_seen_in_every_pass(session: Session, scenario: Scenario) -> None:
    engine = session.engine
    sites = {"cond": engine.denoise_step_emb, "ctrl": engine.ctrl_emb, "head": engine.model.layers[1].cond_head}
    calls = count_calls(sites)
    generate(session, scenario, 0)
    generate(session, scenario, 1)
    assert calls == {"cond": 10, "ctrl": 10, "head": 10}


def test_a_patched_cond_reaches_the_blocks_and_is_not_remembered(session: Session, scenario: Scenario) -> None:
    engine = session.engine
    heads: list[Tensor] = []
    engine.model.layers[2].cond_head.register_forward_hook(lambda module, inputs, head: heads.append(head))
    patch = engine.denoise_step_emb.register_forward_hook(lambda module, inputs, cond: cond + 1)
    generate(session, scenario, 0)
    patch.remove()
    generate(session, scenario, 1)
    cond = session.memory.cond(session.schedule.levels[1.0])
    assert torch.equal(heads[0], engine.model.modulator(cond + 1).blocks[2])
    assert torch.equal(heads[5], engine.model.modulator(cond).blocks[2])


@pytest.mark.parametrize("site", ["sigma", "timestamp", "button", "mouse", "noise", "prompt_emb"])
def test_a_patched_input_is_the_one_consumed(
    session: Session, scenario: Scenario, checkpoint: Checkpoint, site: str
) -> None:
    # Of the second frame: a shift of time shows only where there is something to look back to.
    plain = [generate(session, scenario, frame) for frame in range(2)]
    session.engine.inputs[site].register_forward_hook(lambda module, inputs, value: value.flip(-1) * 2 + 1)
    again = begin(session.engine, scenario, checkpoint)
    patched = [generate(again, scenario, frame) for frame in range(2)]
    assert not torch.equal(patched[1][0], plain[1][0])


def test_a_new_session_sees_nothing_of_the_one_before(
    session: Session, scenario: Scenario, checkpoint: Checkpoint
) -> None:
    first = [generate(session, scenario, frame) for frame in range(2)]
    for cache in session.engine.rings:
        cache.ring.fill_(torch.nan)
    again = begin(session.engine, scenario, checkpoint)
    for frame, latents in enumerate(first):
        assert all(map(torch.equal, generate(again, scenario, frame), latents))


def test_sigmas_and_their_differences_are_rounded_to_the_models_dtype(session: Session) -> None:
    sigmas = torch.tensor([1.0, 0.8609585762023926, 0.729332447052002, 0.3205108940601349, 0.0])
    session.engine.dtype = torch.bfloat16
    schedule = Session(session.engine, sigmas).schedule
    assert schedule.sigmas == [1.0, 0.859375, 0.73046875, 0.3203125, 0.0]
    assert [delta.item() for delta in schedule.deltas] == [-0.140625, -0.12890625, -0.41015625, -0.3203125]


def test_an_image_takes_a_frame_of_the_clock_with_idle_controls(session: Session) -> None:
    embeddings: list[Tensor] = []
    session.engine.ctrl_emb.register_forward_hook(lambda module, inputs, control: embeddings.append(control))
    steps = session.append_image(torch.zeros(360, 640, 3, dtype=torch.uint8))
    assert [step.phase for step in steps] == ["image"]
    assert session.clock == 1
    assert [embedding.abs().max().item() for embedding in embeddings] == [0.0]
