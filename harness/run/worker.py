"""Drives an engine in a process of its own, for waypoint-parity in another one. This file is all that is needed there.

    python worker.py my_port.py:MyPort

It needs NumPy, and torch where the engine is a torch program; nothing of waypoint-parity. The conversation goes over
standard input and output, and docs/protocol.md describes it. What the engine prints goes to standard error.

An engine is a class:

    class MyPort:
        def __init__(self, checkpoint, numerics):   # checkpoint.folder, .config; numerics.dtype, .device
            ...
        def describe(self):                         # what identifies it, as texts
            return {"version": "0.1"}
        def sites(self):                            # torch modules by the names of their sites
            return {"transformer.blocks.0": module, "latent": (module, layout, restore)}
        def session(self, scenario):                # scenario.tensors["noise"], .numbers, .units
            yield 0, "denoise", 0, sigma            # unit, phase, step, sigma: just before the pass runs
            ...

An engine without torch modules lists the names of its sites, and calls `x = self.show("latent", x)` with each value:
the worker gives it that method. It goes on with what `show` returns.

What both ends of a conversation need stands here too, since this file can import nothing of ours.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import json
import math
import os
import platform
import select
import sys
import sysconfig
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

PROTOCOL = 1
# What the files of an exact shadow are called here.
EXACT = "waypoint_parity_exact"
# Bytes of a header, and of the tensors of a message: more is no message.
_MOST_HEADER, _MOST_TENSORS = 1 << 24, 1 << 36
_MOST_AXES = 32
# Types by their names in safetensors. NumPy has no bfloat16 and no float8: their bits are carried.
_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "|u1",
    "F8_E5M2": "|u1",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
    "C64": "<c8",
    "C128": "<c16",
}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items() if name not in ("BF16", "F8_E4M3", "F8_E5M2")}
_BITS = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


class Closed(EOFError):  # noqa: N818 - an end, and not always an error
    """The other side is gone."""


class Silent(TimeoutError):  # noqa: N818
    """The other side has said nothing for too long."""


class Nonsense(ValueError):  # noqa: N818
    """What the other side says is no message."""


class Mistake(ValueError):  # noqa: N818
    """What an engine shows or announces is not what can be compared."""


class Raw(NamedTuple):
    """A tensor as it travels: the name of its type, its shape, and an array whose bytes are its numbers."""

    dtype: str
    shape: tuple[int, ...]
    data: Any

    @classmethod
    def of(cls, value: Any) -> "Raw":
        """A tensor of torch, an array of NumPy, or a number. Raises Mistake for anything else."""
        if torch is not None and isinstance(value, torch.Tensor):
            return cls._of_torch(value)
        array = np.asarray(value)
        for name, called in _BITS.items():
            if array.dtype.name == called:  # of ml_dtypes, as JAX has them
                bits = np.ascontiguousarray(array).view(_TYPES[name])
                return cls(name, array.shape, bits)
        array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        if array.dtype not in _NAMES:
            raise Mistake(f"{type(value).__name__} of {array.dtype} is no tensor of numbers")
        return cls(_NAMES[array.dtype], array.shape, array)

    @classmethod
    def _of_torch(cls, value: Any) -> "Raw":
        if value.is_meta or value.is_nested:
            raise Mistake("a tensor without values" if value.is_meta else "a nested tensor")
        value = value.detach()
        value = value.dequantize() if value.is_quantized else value
        value = value if value.layout is torch.strided else value.to_dense()
        value = value.resolve_conj().resolve_neg().cpu().contiguous()
        name = next((name for name, called in _BITS.items() if value.dtype is getattr(torch, called)), None)
        if name is None:
            array = value.numpy()
            return cls(_NAMES[array.dtype], tuple(value.shape), array)
        return cls(name, tuple(value.shape), value.view(torch.int16 if name == "BF16" else torch.uint8).numpy())

    def tensor(self) -> Any:
        """The tensor of torch."""
        tensor, called = torch.from_numpy(self._numbers()), _BITS.get(self.dtype)
        return tensor if called is None else tensor.view(getattr(torch, called))

    def array(self) -> Any:
        """The array of NumPy; without ml_dtypes it holds a bfloat16 as float32."""
        array, called = self._numbers(), _BITS.get(self.dtype)
        if called is None:
            return array
        try:
            return array.view(getattr(importlib.import_module("ml_dtypes"), called))
        except ModuleNotFoundError:
            if self.dtype != "BF16":
                raise
            return (array.astype("<u4") << 16).view("<f4").astype(np.float32)

    def like(self, value: Any) -> Any:
        """The tensor, if `value` is one, else the array."""
        return self.tensor() if torch is not None and isinstance(value, torch.Tensor) else self.array()

    def _numbers(self) -> Any:
        numbers = np.frombuffer(self.data, _TYPES[self.dtype]).reshape(self.shape)
        # Any other byte than 0 is true, and only 1 is taken for it everywhere.
        return numbers.view(np.uint8) != 0 if self.dtype == "BOOL" else numbers

    @property
    def bytes(self) -> int:
        """How many bytes it has."""
        return math.prod(self.shape) * np.dtype(_TYPES[self.dtype]).itemsize

    @property
    def digest(self) -> str:
        """Of its numbers: an input is the same one in another shape."""
        return hashlib.blake2b(memoryview(self.data).cast("B") if self.bytes else b"", digest_size=16).hexdigest()


Message = tuple[dict[str, Any], list[Raw]]


class Channel:
    """Messages over two file descriptors. Where those do not block, whoever waits does so for `patience` seconds.

    So long for a message to begin, and so long from its first byte to its last.
    """

    def __init__(self, reading: int, writing: int, patience: float | None = None) -> None:
        self._reading, self._writing = reading, writing
        self._patience = patience
        self._read = bytearray()
        # When the message that has begun must be whole; None before its first byte.
        self._until: float | None = None

    def send(self, header: Mapping[str, Any], tensors: Sequence[Raw] = ()) -> None:
        """Send a message. Raises Closed and Silent."""
        self._begin()
        listed = {"tensors": [[each.dtype, list(each.shape)] for each in tensors]} if tensors else {}
        self._write(json.dumps({**header, **listed}, separators=(",", ":")).encode() + b"\n")
        for each in tensors:
            self._write(memoryview(each.data).cast("B") if each.bytes else b"")

    def receive(self) -> Message:
        """The next message. Raises Closed, Silent and Nonsense."""
        self._until = None
        if self._read:
            self._begin()
        header = self._header()
        return header, [self._tensor(dtype, shape) for dtype, shape in _announced(header)]

    def _header(self) -> dict[str, Any]:
        begun = 0
        while (end := self._read.find(b"\n", begun)) < 0:
            begun = len(self._read)
            if begun > _MOST_HEADER:
                raise Nonsense(f"a header of more than {_MOST_HEADER} bytes")
            chunk = bytearray(1 << 16)
            self._read += chunk[: self._some(memoryview(chunk))]
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        try:
            header = json.loads(line, parse_constant=_no_number)
            json.dumps(header, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            header = None
        if not isinstance(header, dict) or not isinstance(header.get("op"), str):
            raise Nonsense(f"a line that is no header: {line[:80]!r}")
        return header

    def _tensor(self, dtype: str, shape: Sequence[int]) -> Raw:
        raw = Raw(dtype, tuple(shape), np.empty(0, np.uint8))
        if raw.bytes > _MOST_TENSORS:
            raise Nonsense(f"a tensor of {raw.bytes} bytes")
        try:
            array = np.empty(raw.bytes, np.uint8)
        except MemoryError as error:
            raise Nonsense(f"a tensor of {raw.bytes} bytes, for which there is no memory") from error
        view: memoryview = array.data
        taken = min(len(self._read), raw.bytes)
        view[:taken] = self._read[:taken]
        del self._read[:taken]
        while taken < raw.bytes:
            taken += self._some(view[taken:])
        return raw._replace(data=array)

    @property
    def is_spoken_to(self) -> bool:
        """Whether there is something to be received at once."""
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        return bool(self._read) or any(event & select.POLLIN for _, event in poll.poll(0))

    def _some(self, view: memoryview) -> int:
        while True:
            try:
                got = os.readv(self._reading, [view])
            except BlockingIOError:
                self._wait(self._reading, select.POLLIN)
                continue
            except OSError as error:
                raise Closed(str(error)) from error
            if not got:
                raise Closed("the stream has ended")
            if self._until is None:
                self._begin()
            return got

    def _begin(self) -> None:
        """A message begins."""
        self._until = None if self._patience is None else time.monotonic() + self._patience

    def _write(self, data: Any) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._writing, view) :]
            except BlockingIOError:
                self._wait(self._writing, select.POLLOUT)
            except OSError as error:
                raise Closed(str(error)) from error

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if self._patience is None:
            poll.poll()
            return
        left = self._patience if self._until is None else self._until - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            what = "nothing" if self._until is None else "no whole message"
            raise Silent(f"{what} in {self._patience:g} s")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _announced(header: Mapping[str, Any]) -> list[tuple[str, list[int]]]:
    """Type and shape of the tensors that follow a header. Raises Nonsense."""
    announced = header.get("tensors", [])
    try:
        pairs = [(dtype, [*shape]) for dtype, shape in announced]
        whole = all(type(size) is int and 0 <= size < _MOST_TENSORS for _, shape in pairs for size in shape)
        if whole and all(dtype in _TYPES and len(shape) <= _MOST_AXES for dtype, shape in pairs):
            return pairs
    except (TypeError, ValueError):
        pass
    raise Nonsense(f"tensors that are none: {str(announced)[:80]}")


@dataclass(frozen=True)
class Watched:
    """Where a site is seen: a module, and the ways to the official layout and back. Without a module it shows itself.

    `restore(official, output)` gives the output to go on with.
    """

    module: Any
    layout: Callable[[Any, Any], Any] | None = None
    restore: Callable[[Any, Any], Any] | None = None

    @classmethod
    def of(cls, site: Any) -> "Watched":
        """A module, or (module, layout[, restore]), or one of these already."""
        if isinstance(site, Watched):
            return site
        return cls(*site) if isinstance(site, tuple) else cls(site)

    @property
    def is_patchable(self) -> bool:
        """Whether another value can be put in the place of the one that the site shows."""
        return self.layout is None or self.restore is not None

    def shown(self, output: Any, inputs: Any) -> Any:
        """What the site shows of an output."""
        return output if self.layout is None else self.layout(output, inputs)

    def replacement(self, official: Any, output: Any) -> Any:
        """What the engine is to go on with so that the site, whose `output` is given, shows `official`."""
        if self.restore is not None:
            return self.restore(official, output)
        if torch is None or not isinstance(output, torch.Tensor):
            return official
        return official.to(output) if isinstance(official, torch.Tensor) else output


class _Left(BaseException):
    """Nobody asks for the rest of the session. No engine catches it with its own errors."""


class Serving:
    """One engine, driven over a channel. `shadow`: what it was built under, and runs under, if it is followed."""

    def __init__(self, channel: Channel, engine: Any, shadow: Any = None, inputs: set[str] | None = None) -> None:
        """`inputs`: the digests of what is given to a session of a followed engine; each session fills them."""
        self._channel = channel
        self._engine = engine
        self._shadow = shadow
        self._inputs = set() if inputs is None else inputs
        self._built = self._unfollowed()
        sites = engine.sites()
        named = sites.items() if isinstance(sites, Mapping) else ((name, None) for name in sites)
        self.places = {name: Watched.of(site) for name, site in named}
        self._show: frozenset[str] = frozenset()
        self._hold: frozenset[str] = frozenset()
        self._hooks: list[Any] = []
        # One that has modules alone may have a method of that name.
        if any(place.module is None for place in self.places.values()):
            engine.show = self.show

    def ready(self) -> dict[str, Any]:
        """What the other side is told once the engine is loaded."""
        described = {**environment(), **{str(name): str(value) for name, value in self._engine.describe().items()}}
        sites = {name: {"replaceable": place.is_patchable} for name, place in self.places.items()}
        return {"op": "ready", "protocol": PROTOCOL, "describe": described, "sites": sites, **self._unfollowed()}

    def run(self, scenario: Any, lanes: int) -> None:
        """Run a session."""
        if self._shadow is not None:
            self._shadow.lanes = 1 + lanes
            self._shadow.below, self._shadow.foreign = Counter(self._built["below"]), Counter(self._built["foreign"])
            self._inputs.clear()
            self._inputs.update(Raw.of(part).digest for tensor in scenario.tensors.values() for part in parts(tensor))
        passes = self._engine.session(scenario)
        if not isinstance(passes, Iterator):
            raise Mistake(f"session() returns {type(passes).__name__}, and no iterator that yields passes")
        try:
            while True:
                with exact_arithmetic(), self._shadow or contextlib.nullcontext():
                    announced = next(passes, None)
                if announced is None:
                    break
                self._channel.send({"op": "pass", **_named(announced), **self._unfollowed()})
                self._begin()
        finally:
            self._attach(frozenset())
            if hasattr(passes, "close"):
                passes.close()
        self._channel.send({"op": "end", **self._unfollowed()})

    def _begin(self) -> None:
        """Wait for what to show of the pass."""
        asked, _ = self._channel.receive()
        if asked["op"] == "leave":
            raise _Left
        self._hold = frozenset(asked.get("hold", ()))
        if self._shadow is not None:
            self._shadow.follows = asked.get("follow", True)
        self._attach(frozenset(asked.get("show", ())))

    def _attach(self, show: frozenset[str]) -> None:
        """Hook the modules of these sites, and no others."""
        if show == self._show:
            return
        for hook in self._hooks:
            hook.remove()
        by_module: dict[Any, dict[str, Watched]] = {}
        for name, place in self.places.items():
            if name in show and place.module is not None:
                by_module.setdefault(place.module, {})[name] = place
        self._hooks = [module.register_forward_hook(self._hook(places)) for module, places in by_module.items()]
        self._show = show

    def _hook(self, places: Mapping[str, Watched]) -> Callable[[Any, Any, Any], Any]:
        def tap(module: Any, inputs: Any, output: Any) -> Any:
            shown = {name: place.shown(output, inputs) for name, place in places.items()}
            changed = output
            for name, place in places.items():
                changed = self._passed_on(name, place, shown[name], changed, inputs)
            return None if changed is output else changed

        return tap

    def show(self, name: str, value: Any) -> Any:
        """Show a value of a site that has no module. Returns what to go on with."""
        if name not in self.places:
            raise Mistake(f"{name} is shown, and sites() does not name it")
        return self._passed_on(name, self.places[name], value, value, ()) if name in self._show else value

    def _passed_on(self, name: str, place: Watched, shown: Any, output: Any, inputs: Any) -> Any:
        """Show a value, and return the output to go on with."""
        made, values = form(shown)
        held = name in self._hold
        with apart():
            try:
                raws = [Raw.of(value) for value in values]
            except Mistake as error:
                raise Mistake(f"site {name} shows {error}") from error
            exact, lanes = self._exact(values)
            self._channel.send({"op": "show", "site": name, **made, "held": held, **exact}, [*raws, *lanes])
        while held:
            with apart():
                asked, given = self._channel.receive()
            if asked["op"] == "leave":
                raise _Left
            if asked["op"] != "put":
                break
            official = formed([raw.like(value) for raw, value in zip(given, values, strict=True)], **made)
            output, took = self._put(place, official, output, inputs)
            with apart():
                self._channel.send({"op": "put", "took": took})
        return output

    def _put(self, place: Watched, official: Any, output: Any, inputs: Any) -> tuple[Any, bool]:
        """(the output to go on with, whether the site shows what was put there)."""
        if not place.is_patchable:
            return output, False
        if self._shadow is not None:
            for each in form(official)[1]:
                self._shadow.put(each)
        try:
            replaced = place.replacement(official, output)
            return replaced, _same(place.shown(replaced, inputs), official)
        except Exception:  # such as a ring of another size: what a site makes of a value is the engine's
            return output, False

    def _exact(self, values: Sequence[Any]) -> tuple[dict[str, Any], list[Raw]]:
        """What is known of the exact values: for each value how many lanes follow, and why it is not exact."""
        if self._shadow is None or not self._shadow.follows:
            return {}, []
        followed = [self._lanes(value) for value in values]
        lost = [self._shadow.lost(value) if lanes else None for value, lanes in zip(values, followed, strict=True)]
        return {"lanes": [len(lanes) for lanes in followed], "lost": lost}, [lane for each in followed for lane in each]

    def _lanes(self, value: Any) -> list[Raw]:
        if not isinstance(value, torch.Tensor) or not (value.is_floating_point() or value.is_complex()):
            return []
        return [Raw.of(self._shadow.of(value, lane)) for lane in range(self._shadow.lanes)]

    def _unfollowed(self) -> dict[str, Any]:
        if self._shadow is None:
            return {}
        return {"below": dict(self._shadow.below), "foreign": dict(self._shadow.foreign)}


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Outside all modes of torch that see operations and calls: what is done here is not the engine's."""
    if torch is None:
        yield
        return
    # Its state belongs to the thread: a session that is left in the middle, as an exchange does, would take it along.
    seen = torch._C._len_torch_function_stack() > 0
    unseen = torch._C.DisableTorchFunction() if seen else contextlib.nullcontext()
    with torch.utils._python_dispatch._disable_current_modes(), unseen:
        yield


def environment() -> dict[str, str]:
    """What a run depends on besides the engine, by the names that a manifest has."""
    found = {"torch": "none", "threads": "1", "platform": platform.platform(), "processor": platform.machine()}
    if torch is None:
        return found
    # The instruction set that torch computes with: another one rounds otherwise.
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    return found | {
        "torch": str(torch.__version__),
        "threads": str(torch.get_num_threads()),
        "processor": processor,
    }


def parts(tensor: Any) -> Iterator[Any]:
    """An input, whole and unit by unit."""
    yield tensor
    if len(tensor.shape) > 1:
        yield from tensor


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """No gradients, and fp32 convolutions in fp32: by default cuDNN rounds their inputs to TF32."""
    if torch is None:
        yield
        return
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def _named(announced: Any) -> dict[str, Any]:
    """A pass as it is announced: (unit, phase[, step[, sigma[, branches]]]), or (unit, of these a tuple)."""
    try:
        unit, *rest = announced
        if len(rest) == 1 and not isinstance(rest[0], str):
            rest = list(rest[0])
        defaults: list[Any] = [0, None, ("",)]
        phase, step, sigma, branches = list(rest) + defaults[len(rest) - 1 :]
        if isinstance(unit, int) and isinstance(phase, str) and isinstance(step, int):
            sigma = None if sigma is None else float(sigma)
            return {"unit": unit, "phase": phase, "step": step, "sigma": sigma, "branches": list(branches)}
    except (TypeError, ValueError):
        pass
    raise Mistake(f"session() yields {announced!r:.120}, and not (unit, phase, step, sigma)")


def form(shown: Any) -> tuple[dict[str, Any], list[Any]]:
    """How what a site shows is made of tensors: one; one for each branch; or one for each of several calls."""
    if isinstance(shown, Mapping):
        return {"branches": [*shown]}, [*shown.values()]
    if isinstance(shown, list | tuple) and not hasattr(shown, "_fields"):
        return {"calls": len(shown)}, [*shown]
    return {}, [shown]


def formed(values: Sequence[Any], branches: Sequence[str] | None = None, calls: int | None = None) -> Any:
    """What a site shows, from its tensors: the way back from `form`."""
    if branches is not None:
        return dict(zip(branches, values, strict=True))
    return values[0] if calls is None else [*values]


def _same(shown: Any, given: Any) -> bool:
    """Whether a site shows what was given in the place of its value."""
    (here, values), (wanted, others) = form(shown), form(given)
    return here == wanted and all(_equal(value, other) for value, other in zip(values, others, strict=True))


def _equal(value: Any, other: Any) -> bool:
    if tuple(value.shape) != tuple(other.shape):
        return False
    if torch is not None and isinstance(value, torch.Tensor):
        other = other.to(value)
        return bool(((value == other) | (value.isnan() & other.isnan())).all())
    value = np.asarray(value)
    other = np.asarray(other).astype(value.dtype)
    return bool(((value == other) | ((value != value) & (other != other))).all())


# What a message of the other side becomes: the engine, and perhaps what it was built under.
Load = Callable[[Channel, Mapping[str, Any]], Serving]


def serve(channel: Channel, load: Load, scenario: Callable[..., Any] = SimpleNamespace) -> None:
    """Answer until the other side is gone. `scenario` makes what a session is given, of its fields by name."""
    side: Serving | None = None
    while True:
        try:
            asked, given = channel.receive()
        except Closed:
            return
        try:
            if asked["op"] == "load":
                side = load(channel, asked)
                channel.send(side.ready())
            elif asked["op"] == "session" and side is not None:
                values = [raw.array() if torch is None else raw.tensor() for raw in given]
                tensors = dict(zip(asked["fields"], values, strict=True))
                named = {name: asked[name] for name in ("family", "name", "seed", "units", "numbers")}
                side.run(scenario(**named, tensors=tensors), asked.get("lanes", 0))
            elif asked["op"] != "leave":  # of a session that has ended meanwhile
                raise Mistake(f"there is no such message now: {asked['op']}")
        except _Left:
            channel.send({"op": "end"})
        except Closed:
            return
        except BaseException as error:
            channel.send(_failure(error))


def _failure(error: BaseException) -> dict[str, Any]:
    """What failed, in the engine's own words, and at which of its lines."""
    told = "".join(traceback.format_exception(error))
    mistake = isinstance(error, Mistake)
    return {"op": "failed", "words": words_of(error), "place": place_of(error), "mistake": mistake, "traceback": told}


def words_of(error: BaseException) -> str:
    """What an engine says of its failure."""
    if isinstance(error, SystemExit):
        return f"it left the process: SystemExit({'' if error.code is None else repr(error.code)})"
    try:
        text = str(error).strip()
    except Exception:  # the words of an engine may fail as well
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: BaseException) -> str:
    """Where it happened: the innermost line that is the engine's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if not any(file.is_relative_to(other) for other in _not_the_engine()):
            return f"{file}, line {frame.lineno}, in {frame.name}"
    # A StopIteration becomes another error on the way out of a generator.
    return "" if error.__cause__ is None else place_of(error.__cause__)


def _not_the_engine() -> list[Path]:
    """Frames of these are no place in an engine."""
    here = Path(__file__)
    # The whole instrument, where this file is a part of it.
    ours = here.parents[1] if __package__ else here
    found = [ours, Path(sysconfig.get_path("stdlib")) / "contextlib.py"]
    found += [Path(f"<frozen importlib.{name}>") for name in ("_bootstrap", "_bootstrap_external")]
    return found if torch is None else [*found, Path(torch.__file__).parent]


def _followed(asked: Mapping[str, Any]) -> tuple[Any, set[str]]:
    """The exact shadow that `asked` wants an engine built under, and the digests of a session's inputs, to be filled.

    The sources of the shadow come with the message: they need torch and nothing else.
    """
    package = ModuleType(EXACT)
    package.__path__ = []
    sys.modules[package.__name__] = package
    for name, source in asked["sources"].items():
        module = ModuleType(f"{package.__name__}.{name}")
        module.__package__ = package.__name__
        sys.modules[module.__name__] = module
        exec(compile(source, f"<{name}>", "exec"), vars(module))
    weights, inputs = set(asked["weights"]), set[str]()

    def given(x: Any) -> bool:
        digest = Raw.of(x).digest
        return digest in weights or digest in inputs

    module = sys.modules[f"{package.__name__}.shadow"]
    return module.Shadow(lanes=asked["lanes"], given=given, constants_rounded=asked["constants_rounded"]), inputs


def loader(make: Callable[[Mapping[str, Any]], Any]) -> Load:
    """Builds an engine by `make`, under an exact shadow where one is asked for."""

    def load(channel: Channel, asked: Mapping[str, Any]) -> Serving:
        if torch is not None:
            torch.set_num_threads(asked["numerics"]["threads"])
        if torch is None or not asked.get("exact"):
            return Serving(channel, make(asked))
        shadow, inputs = _followed(asked["exact"])
        with shadow, torch.no_grad():
            engine = make(asked)
        shadow.settle()
        return Serving(channel, engine, shadow, inputs)

    return load


def _plain(implementation: str) -> Callable[[Mapping[str, Any]], Any]:
    """Makes the engine of `file.py:Class` or `module:Class` from what a message says."""

    def make(asked: Mapping[str, Any]) -> Any:
        location, _, name = implementation.rpartition(":")
        path = Path(location)
        if location.endswith(".py"):
            sys.path.insert(0, str(path.resolve().parent))
            location = path.stem
        engine = getattr(importlib.import_module(location), name)
        numerics = dict(asked["numerics"])
        if torch is not None:
            dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
            numerics |= {"dtype": dtypes[numerics["dtype"]], "device": torch.device(numerics["device"])}
        checkpoint = dict(asked["checkpoint"])
        checkpoint["folder"] = Path(checkpoint.pop("location"))
        return engine(SimpleNamespace(**checkpoint), SimpleNamespace(**numerics))

    return make


def standard_streams() -> Channel:
    """The channel over standard input and output. What else is printed goes to standard error from now on."""
    reading, writing = os.dup(0), os.dup(1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return Channel(reading, writing)


def main(arguments: Iterable[str]) -> None:
    """Serve the engine that the arguments name."""
    arguments = [*arguments]
    if len(arguments) != 1 or ":" not in arguments[0]:
        sys.exit("usage: python worker.py my_port.py:MyPort")
    serve(standard_streams(), loader(_plain(arguments[0])))


if __name__ == "__main__":
    main(sys.argv[1:])
