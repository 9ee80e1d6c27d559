"""Seconds of a denoise pass in steady state, and of decoding.

Every ratio is taken within one run, from the least time of each side, so that a busy machine does not decide it.
"""

from typing import Any

import pytest
import torch

from tests.bench.geometry import GOLDEN, checkpoint_of
from tests.bench.matmul_floor import CONVOLUTIONS, matmul_floor
from tests.bench.memory import peak_growth
from tests.bench.steady import DenoisePasses, candidate_at, eager_at, seconds, steady_clock
from waypoint_parity.candidate.engine import Engine
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.adapter import DTYPES, Numerics

CPU = torch.device("cpu")
# Rounds of the candidate; the slower reference has half as many. At the real width a pass takes seconds; in bf16, on
# a CPU without bf16 products, tens of them.
ROUNDS = {"tiny-fp32": 60, "real-width-fp32": 4, "real-width-bf16": 2, "waypoint-1.5-fp32": 4, "waypoint-1.5-bf16": 2}
SCENARIO = GOLDEN / "scenario.safetensors"


@pytest.fixture(scope="module")
def sized(request: pytest.FixtureRequest) -> tuple[str, Checkpoint]:
    """(size, checkpoint). Of module scope: the weights of the real width are drawn once."""
    return request.param, checkpoint_of(request.param)


def stored_bytes(engine: Engine) -> dict[str, int]:
    """What the engine holds between passes."""
    weights = sum(tensor.nbytes for tensor in engine.model.state_dict().values())
    return {"weights_bytes": weights, "rings_bytes": sum(cache.ring.nbytes for cache in engine.rings)}


@pytest.mark.benchmark(group="pass")
@pytest.mark.parametrize(
    ("sized", "dtype"),
    [
        ("tiny", "fp32"),
        ("real-width", "fp32"),
        ("real-width", "bf16"),
        ("waypoint-1.5", "fp32"),
        ("waypoint-1.5", "bf16"),
    ],
    indirect=["sized"],
)
def test_denoise_pass(sized: tuple[str, Checkpoint], dtype: str, benchmark: Any) -> None:
    size, checkpoint = sized
    row, numerics, clock = f"{size}-{dtype}", Numerics(DTYPES[dtype], CPU), steady_clock(checkpoint)
    adapter = candidate_at(checkpoint, numerics, clock)
    candidate = DenoisePasses(adapter, checkpoint)
    growth = peak_growth(candidate)
    floor = matmul_floor(candidate)
    # The floor is measured between the candidate's rounds: whatever else the machine does, it does to both.
    floors: list[float] = []
    benchmark.pedantic(candidate, setup=lambda: floors.append(seconds(floor)), rounds=ROUNDS[row])
    reference = DenoisePasses(eager_at(checkpoint, numerics, clock), checkpoint)
    references = [seconds(reference) for _ in range(ROUNDS[row] // 2)]

    candidate_seconds = benchmark.stats.stats.min
    benchmark.extra_info |= {
        "row": row,
        "reference_seconds": min(references),
        "candidate_seconds": candidate_seconds,
        "reference_over_candidate": min(references) / candidate_seconds,
        "matmul_floor_seconds": min(floors),
        "candidate_over_matmul_floor": candidate_seconds / min(floors),
        "candidate_peak_growth_bytes": growth,
        **stored_bytes(adapter.engine),
    }


@pytest.mark.benchmark(group="decode")
@pytest.mark.parametrize("sized", ["tiny", "real-width", "waypoint-1.5"], indirect=True)
def test_decode(sized: tuple[str, Checkpoint], benchmark: Any) -> None:
    size, checkpoint = sized
    adapter = candidate_at(checkpoint, Numerics(torch.float32, CPU), steady_clock(checkpoint))
    decoder = adapter.engine.autoencoder.decoder
    latent = torch.randn(1, *checkpoint.geometry.transformer.latent_shape)
    decoder(latent)  # one that remembers is primed
    floor = matmul_floor(lambda: decoder(latent), CONVOLUTIONS)
    floors: list[float] = []
    benchmark.pedantic(lambda: decoder(latent), setup=lambda: floors.append(seconds(floor)), rounds=4)
    benchmark.extra_info |= {
        "row": f"{size}-fp32",
        "decode_seconds": benchmark.stats.stats.min,
        "convolution_floor_seconds": min(floors),
        "decode_over_convolution_floor": benchmark.stats.stats.min / min(floors),
    }
