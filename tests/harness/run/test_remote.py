import os
import shlex
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.compare.exact.shadowed import load_shadowed
from waypoint_parity.harness.errors import EngineError, FourPartError, UserError
from waypoint_parity.harness.run import registry, worker
from waypoint_parity.harness.run.adapter import Adapter, Numerics
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.session import passes, run
from waypoint_parity.harness.run.taps import Observation, Observer, Taps
from waypoint_parity.harness.run.worker import exact_arithmetic

ENGINES = Path(__file__).with_name("plain_engines.py")
SPOKEN = "import sys; sys.stdin.readline(); sys.stdout.buffer.write({!r}); sys.stdout.flush(); sys.stdin.readline()"

Start = Callable[..., Adapter]


@pytest.fixture
def start(tiny: Checkpoint, fp32_on_cpu: Numerics) -> Start:
    """Starts an engine of plain_engines.py in a process of its own, or another command."""

    def start(engine: str = "", *, command: str = "", timeout: float = 20.0) -> Adapter:
        command = command or f"{sys.executable} {worker.__file__} {ENGINES}:{engine}"
        numerics = Numerics(fp32_on_cpu.dtype, fp32_on_cpu.device, side_timeout=timeout)
        return registry.load(f"command: {command}", tiny, numerics)

    return start


@pytest.fixture
def seen(tiny: Checkpoint, tiny_scenario: Scenario) -> Callable[..., dict[str, Tensor]]:
    """Runs a session and returns what it showed, by key."""

    def seen(adapter: Adapter, observe: Observer = lambda seen: None, **options: bool) -> dict[str, Tensor]:
        shown: dict[str, Tensor] = {}

        def see(observation: Observation) -> Tensor | None:
            shown[str(observation.key)] = observation.tensor.clone()
            return observe(observation)

        with Taps(adapter.sites(), see, **options) as taps:
            run(adapter, tiny_scenario, tiny, taps)
        return shown

    return seen


def test_a_process_shows_its_values(start: Start, seen, tiny_scenario: Scenario) -> None:
    engine = start("Doubling")
    shown = seen(engine, replaces=False)
    noise = tiny_scenario["noise"]
    assert list(shown)[:3] == ["u0/denoise0/input.noise", "u0/denoise0/velocity", "u0/denoise0/latent"]
    assert torch.equal(shown["u1/denoise1/latent"], noise[1] * 4)
    assert len(shown) == 2 * 5
    assert engine.describe()["version"] == "1"
    assert engine.describe()["dtype"] == "torch.float32"


def test_it_goes_on_with_what_is_put_in_place(start: Start, seen) -> None:
    def ones(observation: Observation) -> Tensor | None:
        at = observation.key
        return torch.ones_like(observation.tensor) if (at.site, at.unit, at.step) == ("velocity", 0, 0) else None

    shown, noise = seen(start("Doubling"), ones), seen(start("Doubling"))["u0/denoise0/input.noise"]
    assert torch.equal(shown["u0/denoise0/latent"], noise + 1)
    assert torch.equal(shown["u0/denoise1/latent"], (noise + 1) * 2)


def test_a_site_that_takes_no_value_refuses_it(start: Start, tiny: Checkpoint, tiny_scenario: Scenario) -> None:
    adapter = start("Stubborn")
    with Taps(adapter.sites(), lambda seen: torch.zeros_like(seen.tensor)) as taps:
        run(adapter, tiny_scenario, tiny, taps)
    assert taps.refused == {"input.noise", "velocity", "latent"}


def test_an_engine_of_modules_keeps_a_method_of_its_own_called_show() -> None:
    engine = SimpleNamespace(show="its own", sites=lambda: {"latent": torch.nn.Identity()})
    worker.Serving(None, engine)
    assert engine.show == "its own"
    engine.sites = lambda: ["latent"]
    worker.Serving(None, engine)
    assert engine.show != "its own"


def test_an_engine_that_fails_of_a_value_is_told_at_once(start: Start, seen) -> None:
    began = time.monotonic()
    error = failure(lambda: seen(start("Unwilling"), lambda seen: torch.zeros_like(seen.tensor)))
    assert "KeyboardInterrupt" in error.found
    assert time.monotonic() - began < 15


def changed_worker(folder: Path, change: str, before: str = "") -> Path:
    """The worker with a change to what it is, or to what it finds before."""
    path = folder / "changed.py"
    path.write_text(
        f"import importlib.util, runpy, sys\n{before}\nworker = runpy.run_path({worker.__file__!r})\n"
        f"{textwrap.dedent(change)}\nworker['main'](sys.argv[1:])\n"
    )
    return path


def test_an_engine_that_does_not_wait_refuses_what_is_put(start: Start, seen, tmp_path: Path) -> None:
    hasty = changed_worker(
        tmp_path,
        """
        receive = worker["Channel"].receive
        def never_held(self):
            asked, given = receive(self)
            return ({**asked, "hold": []} if asked["op"] == "go" else asked), given
        worker["Channel"].receive = never_held
        """,
    )
    shown = seen(
        start(command=f"{sys.executable} {hasty} {ENGINES}:Doubling"), lambda seen: torch.zeros_like(seen.tensor)
    )
    assert all(value.any() for value in shown.values())


def test_an_engine_needs_no_torch(tiny: Checkpoint, fp32_on_cpu: Numerics, seen, tmp_path: Path) -> None:
    hidden = "found = importlib.util.find_spec\nimportlib.util.find_spec = lambda n: None if n == 'torch' else found(n)"
    command = f"{sys.executable} {changed_worker(tmp_path, '', hidden)} {ENGINES}:Doubling"
    followed = load_shadowed(f"command: {command}", tiny, fp32_on_cpu)
    assert len(seen(followed.adapter)) == 10
    assert followed.adapter.describe()["torch"] == "none"


def test_a_process_that_is_gone_stays_gone(start: Start, seen) -> None:
    adapter = start("Gone")
    first, second = failure(lambda: seen(adapter)), failure(lambda: seen(adapter))
    assert first.found == second.found


def test_branches_and_calls_arrive_as_they_are(start: Start, seen) -> None:
    shown = seen(start("Branching"))
    assert [*shown] == ["u0/denoise0/velocity@with", "u0/denoise0/velocity@without", *CALLS]
    assert shown["u0/denoise0/velocity@with"].tolist() == [1, 1, 1]
    assert shown[CALLS[1]].dtype is torch.int64


CALLS = ["u0/denoise0/latent", "u0/denoise0/latent#1"]


def test_numbers_of_every_kind_arrive(start: Start, seen) -> None:
    shown = seen(start("OneByOne"))
    kinds = [(value.dtype, value.tolist()) for value in shown.values()]
    assert kinds[0] == (torch.int64, 3)
    assert kinds[1] == (torch.bool, [[True, False]])
    assert kinds[2][0] is torch.float16


def test_what_an_engine_prints_is_no_message(start: Start, seen) -> None:
    assert len(seen(start("Printing"))) == 10


def test_a_session_that_is_left_gives_way_to_the_next(
    start: Start, seen, tiny: Checkpoint, tiny_scenario: Scenario
) -> None:
    adapter = start("Doubling")
    alone = seen(adapter)
    with exact_arithmetic(), Taps(adapter.sites(), lambda seen: None) as taps:
        left = passes(adapter, tiny_scenario, tiny, taps)
        next(left)
        next(left)
        again = seen(adapter)
    assert alone.keys() == again.keys()
    assert all(torch.equal(alone[key], again[key]) for key in alone)


def test_the_process_ends_with_its_adapter(start: Start) -> None:
    adapter = start("Doubling")
    process = adapter._process._process
    assert process.poll() is None
    del adapter
    assert process.wait(5) is not None


def failure(run: Callable[[], object], kind: type[FourPartError] = EngineError) -> FourPartError:
    with pytest.raises(kind) as raised:
        run()
    return raised.value


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("Failing", "RuntimeError: out of memory"),
        ("Leaving", "SystemExit"),
        ("Interrupting", "KeyboardInterrupt"),
        ("Gone", "exit code 0, after saying 'the last word'"),
        ("Killed", "SIGKILL"),
    ],
)
def test_an_engine_that_ends_is_told_with_its_words_and_its_place(start: Start, seen, engine: str, words: str) -> None:
    error = failure(lambda: seen(start(engine)))
    assert words in error.found
    assert "in unit" in error.what
    if engine == "Failing":
        assert f"{ENGINES}, line" in error.found
        assert "unit 1, denoise step 0" in error.what


@pytest.mark.parametrize("engine", ["Stopped", "Hanging"])
def test_an_engine_that_is_silent_is_told_within_the_time_limit(start: Start, seen, engine: str) -> None:
    adapter = start(engine)
    adapter._process._channel._patience = 1.0
    began = time.monotonic()
    error = failure(lambda: seen(adapter))
    assert "--side-timeout" in error.found
    assert time.monotonic() - began < 10


DRIPPING = """
import sys, time
sys.stdin.readline()
for byte in {!r} + bytes(1000):
    sys.stdout.buffer.write(bytes([byte]))
    sys.stdout.flush()
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    "message",
    [b'{"op":"ready"' + b" " * 1000, b'{"op":"show","site":"latent","tensors":[["U8",[1000]]]}\n'],
    ids=["header", "tensor"],
)
def test_a_message_that_drips_is_no_sign_of_life(start: Start, message: bytes) -> None:
    """Byte after byte, each within the limit: the limit is for the whole message."""
    began = time.monotonic()
    command = shlex.join([sys.executable, "-c", DRIPPING.format(message)])
    error = failure(lambda: start(command=command, timeout=5.0))
    assert "--side-timeout" in error.found
    assert 4 < time.monotonic() - began < 30


def test_the_limit_is_for_each_message_by_itself() -> None:
    """Messages that come slower than the limit in all, and each within it; half of the next one comes with the last."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    channel = worker.Channel(reading, writing, patience=1.0)

    def speak() -> None:
        for piece in (b'{"op":"a"', b'}\n{"op":"b"', b'}\n{"op":"c"', b"}\n"):
            time.sleep(0.6)
            os.write(writing, piece)

    speaker = threading.Thread(target=speak)
    speaker.start()
    assert [channel.receive()[0]["op"] for _ in range(3)] == ["a", "b", "c"]
    speaker.join()


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("Misspelling", "latnt"),
        ("Wordy", "site latent shows"),
        ("Odd", "('first', 0)"),
        ("NoSession", "NoneType"),
    ],
)
def test_a_mistake_of_an_adapter_is_the_users(start: Start, seen, engine: str, words: str) -> None:
    assert words in failure(lambda: seen(start(engine)), UserError).found


@pytest.mark.parametrize(
    "spoken",
    [
        b"hello\n",
        b"[]\n",
        b'{"op": 1}\n',
        b'{"op": "pass"}\n',
        b'{"op": "ready", "protocol": 99, "sites": {}}\n',
        b'{"op": "ready", "protocol": 1}\n',
        b'{"op": "ready", "protocol": 1, "sites": ["latent"]}\n',
        b'{"op": "ready", "tensors": [["F32", [-1]]]}\n',
        b'{"op": "ready", "tensors": [["F33", [1]]]}\n',
        b'{"op": "ready", "tensors": [["F32", [4611686018427387904, 0]]]}\n',
        b'{"op": "ready", "protocol": 1, "sites": {"latent": {}}, "describe": {"version": "\\ud800"}}\n',
        b'{"op": "ready", "protocol": NaN, "sites": {}}\n',
        b"[" * 100000 + b"\n",
        b'{"op": "ready", "tensors": [["F32", [1099511627776]]]}\n',
        b"x" * (1 << 25),
    ],
    ids=lambda spoken: spoken[:60].decode(),
)
def test_what_is_no_message_is_told(start: Start, spoken: bytes, tmp_path: Path) -> None:
    speaking = tmp_path / "speaking.py"
    speaking.write_text(SPOKEN.format(spoken))
    error = failure(lambda: start(command=f"{sys.executable} {speaking}"))
    assert "protocol" in error.what


def test_a_message_cut_short_is_an_end(start: Start, tmp_path: Path) -> None:
    speaking = tmp_path / "speaking.py"
    speaking.write_text(
        "import sys; sys.stdin.readline();"
        """sys.stdout.write('{"op": "ready", "tensors": [["F32", [4]]]}\\nfour')"""
    )
    assert "exit code 0" in failure(lambda: start(command=f"{sys.executable} {speaking}")).found


def test_a_command_that_cannot_be_started_is_the_users_mistake(start: Start) -> None:
    assert "no-such-engine" in failure(lambda: start(command="./no-such-engine --parity"), UserError).what


def test_what_comes_between_two_sessions_is_told(start: Start, seen, tmp_path: Path) -> None:
    change = """
    run = worker["Serving"].run
    def again(self, *asked):
        run(self, *asked)
        self._channel.send({"op": "end"})
    worker["Serving"].run = again
    """
    adapter = start(command=f"{sys.executable} {changed_worker(tmp_path, change)} {ENGINES}:Doubling")
    seen(adapter)
    time.sleep(0.5)
    assert "protocol" in failure(lambda: seen(adapter)).what


def test_whatever_is_not_0_is_true() -> None:
    sent = worker.Raw("BOOL", (3,), np.array([0, 1, 2], np.uint8))
    assert torch.equal(sent.tensor(), torch.tensor([False, True, True]))
    assert sent.tensor().view(torch.uint8).tolist() == [0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int8, torch.float64])
def test_a_tensor_travels_bit_for_bit(dtype: torch.dtype) -> None:
    sent = torch.tensor([[1.5, -2.0, 0.25]]).to(dtype)
    reading, writing = os.pipe()
    worker.Channel(-1, writing).send({"op": "show"}, [worker.Raw.of(sent), worker.Raw.of(sent.mT)])
    header, (first, second) = worker.Channel(reading, -1).receive()
    assert header["op"] == "show"
    assert torch.equal(first.tensor(), sent)
    assert torch.equal(second.tensor(), sent.mT)
    assert second.tensor().shape == (3, 1)
