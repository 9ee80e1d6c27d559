"""A side in another process: whatever speaks the protocol of docs/protocol.md on its standard input and output.

Every site is a probe here: the process shows a value, the probe returns it, and hooks on the probe see it and may put
another one in its place, as they do with a module of an implementation in this process.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import uuid
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from waypoint_parity.harness.errors import EngineError, UserError, listed
from waypoint_parity.harness.run.adapter import Numerics, Pass, Shown, Site
from waypoint_parity.harness.run.engine import SideError
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.worker import (
    PROTOCOL,
    Channel,
    Closed,
    Nonsense,
    Raw,
    Silent,
    apart,
    form,
    formed,
)

if TYPE_CHECKING:
    from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint

# What a process has said on standard error is told where it fails: so much of its end.
_WORDS = 800
# Seconds that a process has to end once nobody talks to it.
_GRACE = 1.0


class Offered(msgspec.Struct):
    """A site of an engine. `replaceable`: it goes on with what is put in the place of its value."""

    replaceable: bool = False


class _Told(msgspec.Struct, kw_only=True):
    """What an exact shadow could not follow so far; absent where there is none (see compare.exact.shadow)."""

    below: dict[str, int] | None = None
    foreign: dict[str, int] | None = None


class Ready(_Told, kw_only=True, tag_field="op", tag="ready"):
    """The engine is loaded."""

    protocol: int
    sites: dict[str, Offered]
    describe: dict[str, str] = {}


class PassMessage(_Told, kw_only=True, tag_field="op", tag="pass"):
    """A pass is about to run, once it is answered."""

    unit: int
    phase: str
    step: int = 0
    sigma: float | None = None
    branches: tuple[str, ...] = ("",)


class Show(msgspec.Struct, tag_field="op", tag="show"):
    """A site shows a tensor; one for each of `branches`; or one for each of so many `calls`.

    `held`: the engine waits for an answer. Behind the tensors come their exact values, `lanes` of each; `lost` says why
    they are not exact.
    """

    site: str
    branches: list[str] | None = None
    calls: int | None = None
    held: bool = False
    lanes: list[int] = []
    lost: list[str | None] = []


class Put(msgspec.Struct, tag_field="op", tag="put"):
    """Whether the site shows what was put in its place."""

    took: bool


class End(_Told, kw_only=True, tag_field="op", tag="end"):
    """The session is over."""


class Failed(msgspec.Struct, tag_field="op", tag="failed"):
    """The engine failed, in its own words. `mistake`: what it shows or announces cannot be used."""

    words: str
    place: str = ""
    mistake: bool = False
    traceback: str = ""


# All that an engine says.
Said = Ready | PassMessage | Show | Put | End | Failed
Kind = TypeVar("Kind", bound=msgspec.Struct)


class Following(Protocol):
    """The exact shadow, as far as a side in another process needs it: it tells the values that came along."""

    lanes: int
    follows: bool
    below: Counter[str]
    foreign: Counter[str]

    def know(self, x: Tensor, lanes: Sequence[Tensor], lost: str | None) -> None:
        """Take these for the exact values of `x`, and `lost` for why they are not."""
        ...


@dataclass(frozen=True)
class Exactly:
    """That a side is followed exactly: what its process is asked for (docs/protocol.md), and what it tells goes to."""

    asked: Mapping[str, Any]
    shadow: Following


class Remote:
    """Drives what the command line `argument` starts; see harness.run.adapter.Adapter.

    Raises EngineError where the process fails, ends, says nothing for `numerics.side_timeout` seconds, or what is no
    message; UserError where it cannot be started, and for a checkpoint that lies nowhere.
    """

    ARGUMENT = "the command line of an engine that speaks the protocol"
    argument: ClassVar[str]

    def __init__(self, checkpoint: "Checkpoint", numerics: Numerics, exact: Exactly | None = None) -> None:
        if checkpoint.folder is None:
            raise UserError(
                f"{self.argument}: the checkpoint has no folder",
                found="a checkpoint made in memory",
                expected="one that another process can read",
                do="write it to a folder",
            )
        self._process = _Process(self.argument, numerics.side_timeout)
        weakref.finalize(self, self._process.end)
        self._shadow = None if exact is None else exact.shadow
        self._process.send(
            {
                "op": "load",
                "protocol": PROTOCOL,
                "checkpoint": {
                    "location": str(checkpoint.folder.resolve()),
                    "digest": checkpoint.digest,
                    "family": checkpoint.family_name,
                    "config": checkpoint.geometry.to_json(),
                },
                "numerics": {**numerics.to_json(), "threads": torch.get_num_threads()},
                "exact": None if exact is None else exact.asked,
            }
        )
        self._ready, _ = self._process.expect(Ready)
        if self._ready.protocol != PROTOCOL:
            raise _nonsense(self.argument, f"protocol {self._ready.protocol}", f"protocol {PROTOCOL}")
        self._take(self._ready)
        self._probes = {name: _Passing() for name in self._ready.sites}

    @classmethod
    def content_digest(cls) -> str:
        """Another one each time: what a command runs, and on what machine, is not known here."""
        return uuid.uuid4().hex

    def describe(self) -> dict[str, str]:
        """What the process says of itself."""
        return {**self._ready.describe, "process": self.argument}

    def sites(self) -> Mapping[str, Site]:
        """The sites that the process named."""
        put = partial(_put, self._process)
        return {
            name: Site(probe, layout=_as_it_is, restore=put if self._ready.sites[name].replaceable else None)
            for name, probe in self._probes.items()
        }

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session."""
        process = self._process
        named = {name: getattr(scenario, name) for name in ("family", "name", "seed", "units")}
        lanes = 0 if self._shadow is None else self._shadow.lanes - 1
        tensors = [Raw.of(tensor) for tensor in scenario.tensors.values()]
        given = {"numbers": dict(scenario.numbers), "fields": [*scenario.tensors], "lanes": lanes}
        process.begin({"op": "session", **named, **given}, tensors)
        while True:
            said, values = process.expect(PassMessage, Show, End)
            match said:
                case Show():
                    self._show(said, values)
                case PassMessage():
                    self._take(said)
                    yield said.unit, Pass(said.phase, said.step, said.sigma, said.branches)
                    process.send(self._go())
                case End():
                    self._take(said)
                    return

    def _go(self) -> dict[str, Any]:
        """What is to be shown of the pass, and where the process is to wait for a value to go on with."""
        hooked = {name: probe._forward_hooks.values() for name, probe in self._probes.items() if probe._forward_hooks}
        held = [name for name, hooks in hooked.items() if any(getattr(hook, "replaces", True) for hook in hooks)]
        followed = {} if self._shadow is None else {"follow": self._shadow.follows}
        return {"op": "go", "show": [*hooked], "hold": held, **followed}

    def _show(self, said: Show, values: Sequence[Raw]) -> None:
        """Call the probe of a site with what it shows."""
        if said.site not in self._probes:
            raise _nonsense(self.argument, f"site {said.site} is shown", "sites that it named before")
        with apart():
            tensors: list[Tensor] = [raw.tensor() for raw in values]
            shown, exact = tensors[: _count(said)], iter(tensors[_count(said) :])
            for tensor, lanes, lost in zip(shown, said.lanes, said.lost, strict=False):
                if lanes and self._shadow is not None:
                    self._shadow.know(tensor, [next(exact) for _ in range(lanes)], lost)
        self._probes[said.site](formed(shown, said.branches, said.calls))
        if said.held:
            self._process.send({"op": "keep"})

    def _take(self, said: _Told) -> None:
        """Take what a message says of the exact shadow."""
        if self._shadow is not None and said.below is not None and said.foreign is not None:
            self._shadow.below, self._shadow.foreign = Counter(said.below), Counter(said.foreign)


class _Passing(nn.Module):
    """Returns what a site shows, or what hooks put in its place."""

    def forward(self, shown: Shown) -> Shown:
        return shown


def _as_it_is(output: Shown, inputs: Any) -> Shown:
    return output


def _put(process: "_Process", official: Shown, output: Shown) -> Shown:
    """Have the process go on with `official`. Raises where it does not: then the site refuses the value."""
    if not process.waits:
        raise ValueError("the engine did not wait for a value")
    with apart():
        process.send({"op": "put"}, [Raw.of(tensor) for tensor in form(official)[1]])
    answer, _ = process.expect(Put)
    if not answer.took:
        raise ValueError("the site does not show what was put in its place")
    return official


def _count(said: Show) -> int:
    """How many tensors a site shows."""
    if said.branches is not None:
        return len(said.branches)
    return 1 if said.calls is None else said.calls


class _Process:
    """The process of a command line, and the conversation with it."""

    def __init__(self, command: str, patience: float) -> None:
        self._command = command
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        try:
            self._process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._errors.close()
            raise UserError(
                f"command: {command.strip()} cannot be started",
                found=str(error),
                expected="a program and its arguments, as a shell has them",
                do="correct the command",
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        ends = self._process.stdout.fileno(), self._process.stdin.fileno()
        for end in ends:
            os.set_blocking(end, False)
        self._channel = Channel(*ends, patience)
        # Whether a session has begun that the process has not ended, and whether it waits for an answer.
        self._in_session = self.waits = False
        # Why nothing more is to be expected of it: until the next session, or at all.
        self._failure: Exception | None = None

    def begin(self, session: Mapping[str, Any], tensors: Sequence[Raw]) -> None:
        """Begin a session; one that was left in the middle ends before."""
        self._leave()
        if not self._has_ended:
            self._failure = None
            if self._channel.is_spoken_to:
                raise self._given_up(_nonsense(self._command, "a message between two sessions", "none"))
        self.send(session, tensors)
        self._in_session = True

    def send(self, header: Mapping[str, Any], tensors: Sequence[Raw] = ()) -> None:
        """Send a message."""
        self.waits = False
        with self._talking():
            self._channel.send(header, tensors)

    def expect(self, *expected: type[Kind]) -> tuple[Kind, list[Raw]]:
        """The next message, which is one of these. Raises SideError where the engine has failed."""
        with self._talking():
            header, tensors = self._channel.receive()
            said = _understood(header, tensors)
            if isinstance(said, Failed):
                self._in_session = False
                self._failure = SideError(said.words, said.place, mistake=said.mistake)
                raise self._failure
            if not isinstance(said, expected):
                wanted = listed([str(kind.__struct_config__.tag) for kind in expected])
                raise Nonsense(f"message {header['op']!r:.80} in place of {wanted}")
        self.waits = isinstance(said, PassMessage | Put) or (isinstance(said, Show) and said.held)
        self._in_session &= not isinstance(said, End)
        return said, tensors

    def _leave(self) -> None:
        with contextlib.suppress(SideError):
            while self._in_session:
                if self.waits:
                    self.send({"op": "leave"})
                self.expect(PassMessage, Show, End)

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        # Also where whoever put a value took the first failure for a refusal.
        if self._failure is not None:
            raise self._failure
        try:
            yield
        except Closed as error:
            raise self._given_up(SideError(f"its process has ended: {self._ending()}", "")) from error
        except Silent as error:
            raise self._given_up(SideError(f"{error}: it hangs, or --side-timeout is too short", "")) from error
        except Nonsense as error:
            raise self._given_up(_nonsense(self._command, str(error), "a message of the protocol")) from error

    def _given_up(self, error: Exception) -> Exception:
        """`error`, and nobody talks to the process any more."""
        self._in_session = False
        self._failure = error
        self.end()
        return error

    def _ending(self) -> str:
        """How the process ended, and what it said last."""
        try:
            code = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            how = "its output is closed"
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _WORDS))
        words = self._errors.read().decode(errors="replace").strip()
        return f"{how}, after saying {words!r}" if words else how

    @property
    def _has_ended(self) -> bool:
        return self._errors.closed

    def end(self) -> None:
        """End the process, and whatever it has started."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is not None:
                break
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self._errors.close()


def _understood(header: Mapping[str, Any], tensors: Sequence[Raw]) -> Said:
    """What a message says. Raises Nonsense."""
    try:
        said: Said = msgspec.convert(header, Said)
    except msgspec.ValidationError as error:
        raise Nonsense(f"{error!s:.200}") from error
    if isinstance(said, PassMessage) and not said.branches:
        raise Nonsense('a pass of no branch; where there is one, it is called ""')
    if isinstance(said, Show) and said.branches is not None and said.calls is not None:
        raise Nonsense(f"site {said.site} with branches and calls")
    if isinstance(said, Show) and len(tensors) != (wanted := _count(said) + sum(said.lanes)):
        raise Nonsense(f"site {said.site} with {len(tensors)} tensors in place of {wanted}")
    return said


def _nonsense(command: str, found: str, expected: str) -> EngineError:
    return EngineError(
        f"command: {command.strip()} does not keep to the protocol",
        found=found,
        expected=expected,
        do="see docs/protocol.md; what it prints must not go to the standard output of the conversation",
    )
