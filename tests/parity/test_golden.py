"""Both implementations against what the official package computed (fixtures/golden), in every kept frame."""

import json

import pytest
import torch
from torch import Tensor

from tests.parity.implementations import (
    GOLDEN,
    IMPLEMENTATIONS,
    golden_activations,
    golden_frames,
    run_pack,
)
from waypoint_parity.harness.compare.error import Error
from waypoint_parity.harness.compare.tensor_error import tensor_error

# What a right fp32 implementation reaches at every site, by the pack's README.
FP32_BOUND = 3e-6
# In bf16 every intermediate result is rounded to 8 bits, so each formulation of a sum (attention in another order,
# merged products, a norm rounded once or twice) gives values one unit in the last place apart, and a session of several
# frames feeds them back through the cache. The official package with another attention formulation differs from itself
# by 1.3e-2 at a site. A wrong rounding of the noise conditioner's table shows as 3.6e-1, far beyond this bound.
BF16_BOUND = 3e-2
BF16_COSINE = 0.999


@pytest.fixture(scope="module", params=[(i, pack) for i in IMPLEMENTATIONS for pack in ("base", "image", "bf16")])
def session(request: pytest.FixtureRequest) -> tuple[str, dict[str, Tensor]]:
    """(pack, every tensor seen) of one implementation on the scenario of one golden pack."""
    implementation, pack = request.param
    return pack, run_pack(implementation, pack)


def errors(pack: str, seen: dict[str, Tensor]) -> dict[str, Error]:
    # The pack holds fp32 values of the bf16 session's autoencoder in bf16: compared in the dtype that was stored.
    return {
        name: tensor_error(seen[name].to(expected.dtype), expected)
        for name, expected in golden_activations(pack).items()
    }


def test_every_golden_site_was_seen(session: tuple[str, dict[str, Tensor]]) -> None:
    pack, seen = session
    assert golden_activations(pack).keys() | golden_frames(pack).keys() <= seen.keys()


def test_every_golden_site_agrees(session: tuple[str, dict[str, Tensor]]) -> None:
    pack, seen = session
    bound = BF16_BOUND if pack == "bf16" else FP32_BOUND
    found = errors(pack, seen)
    worst = max(found, key=lambda name: found[name].rel_l2)
    print(f"{pack}: {len(found)} tensors, worst relative L2 {found[worst].rel_l2:.2e} at {worst}")
    assert {name: error.rel_l2 for name, error in found.items() if not error.rel_l2 <= bound} == {}


def test_every_golden_site_points_the_same_way(session: tuple[str, dict[str, Tensor]]) -> None:
    pack, seen = session
    cosines = {name: error.cosine for name, error in errors(pack, seen).items() if not name.endswith(".written")}
    assert {name: cosine for name, cosine in cosines.items() if cosine is None or cosine < BF16_COSINE} == {}


def test_written_masks_are_equal(session: tuple[str, dict[str, Tensor]]) -> None:
    pack, seen = session
    masks = {name: mask for name, mask in golden_activations(pack).items() if name.endswith(".written")}
    assert masks
    assert [name for name, mask in masks.items() if not torch.equal(seen[name], mask)] == []


def test_decoded_frames_are_within_one_level(session: tuple[str, dict[str, Tensor]]) -> None:
    pack, seen = session
    if pack == "bf16":
        pytest.skip("one level is promised in fp32 only: latents of two right bf16 sessions differ by 4e-3")
    for name, frame in golden_frames(pack).items():
        assert int((seen[name].int() - frame.int()).abs().max()) <= 1, name


def test_statistics_of_every_frame_agree(session: tuple[str, dict[str, Tensor]]) -> None:
    """The packs keep tensors of a few frames, and mean, std, min, max, absmean of all of them."""
    pack, seen = session
    bound = 10 * BF16_BOUND if pack == "bf16" else 1e-5
    lines = (GOLDEN / pack / "stats.jsonl").read_text().splitlines()
    wrong = []
    for record in map(json.loads, lines):
        values = seen[record["key"]].double()
        found = {
            "mean": values.mean(),
            "std": values.std(correction=0),
            "min": values.min(),
            "max": values.max(),
            "absmean": values.abs().mean(),
        }
        # An absolute bound of the tensor's own size: a mean near 0 has no relative error.
        size = record["absmean"]
        wrong += [(record["key"], name) for name, value in found.items() if abs(value - record[name]) > bound * size]
    assert len(lines) > 900
    assert wrong == []
