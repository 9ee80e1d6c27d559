"""What recording a frame costs, beside the same frame unrecorded and beside the plain way to record it.

All three take turns within one run, and the least time of each counts, so that a busy machine does not decide.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from torch import nn

from tests.bench.geometry import GOLDEN, checkpoint_of
from tests.bench.steady import candidate_at, seconds, steady_clock, whole_frame
from waypoint_parity.harness.record.writer import DumpWriter, describe_run
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.harness.run.scenario import read_scenario
from waypoint_parity.harness.run.taps import Observation, Sink, Taps

CPU = torch.device("cpu")
ROUNDS = {"tiny": 15, "real-width": 2}  # a frame of the real width takes twenty seconds


class SixCalls:
    """The plain recorder: six statistics of a tensor, each brought home by itself, as a line of JSON."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def observe(self, seen: Observation) -> None:
        values = seen.tensor.float()
        statistics = {
            "mean": values.mean().item(),
            "std": values.std(correction=0).item(),
            "min": values.min().item(),
            "max": values.max().item(),
            "absmean": values.abs().mean().item(),
            "rms": values.square().mean().sqrt().item(),
        }
        record = seen.key._asdict() | {"sigma": seen.sigma, "shape": list(values.shape)} | statistics
        self._file.write(json.dumps(record) + "\n")

    def end_pass(self) -> None:
        """Everything is written already."""


class TimedTaps(Taps):
    """Adds up the seconds that it spends, layouts and whatever its sink does included."""

    spent = 0.0

    def begin(self, unit: int, at: Pass) -> None:
        self.spent += seconds(lambda: super(TimedTaps, self).begin(unit, at))

    def _hook(self, sites: Mapping[str, Site]) -> Callable[[nn.Module, Any, Any], Any]:
        observe = super()._hook(sites)

        def timed(module: nn.Module, inputs: Any, output: Any) -> None:
            self.spent += seconds(lambda: observe(module, inputs, output))

        return timed


@pytest.mark.benchmark(group="record")
@pytest.mark.parametrize("size", ["tiny", "real-width"])
def test_record(size: str, benchmark: Any, tmp_path: Path) -> None:
    checkpoint, numerics = checkpoint_of(size), Numerics(torch.float32, CPU)
    adapter = candidate_at(checkpoint, numerics, steady_clock(checkpoint))
    manifest = describe_run("candidate", adapter, numerics, checkpoint, read_scenario(GOLDEN / "scenario.safetensors"))
    plain: list[float] = []
    six_calls: list[float] = []
    spent: list[float] = []

    def frame(sink: Sink, spent: list[float]) -> None:
        with TimedTaps(adapter.sites(), sink.observe, ended=sink.end_pass) as recorder:
            whole_frame(adapter, checkpoint, recorder.begin)
        spent.append(recorder.spent + seconds(sink.end_pass))

    with DumpWriter(tmp_path / "dump", manifest) as writer, (tmp_path / "six.jsonl").open("w") as file:
        frame(writer, [])  # no measure: memory is still being handed out
        records = manifest.observed

        def others() -> None:
            plain.append(seconds(lambda: whole_frame(adapter, checkpoint)))
            frame(SixCalls(file), six_calls)

        benchmark.pedantic(frame, args=(writer, spent), setup=others, rounds=ROUNDS[size])
    benchmark.extra_info |= {
        "row": f"record-{size}",
        "records_per_frame": records,
        "plain_seconds_per_frame": min(plain),
        # From the seconds spent on recording: whole frames of the real width differ among themselves by more.
        "recording_over_plain": 1 + min(spent) / min(plain),
        "microseconds_per_record": min(spent) / records * 1e6,
        "recorded_frame_over_plain_frame": benchmark.stats.stats.min / min(plain),
        "six_calls_over_plain": 1 + min(six_calls) / min(plain),
        "six_calls_microseconds_per_record": min(six_calls) / records * 1e6,
    }
