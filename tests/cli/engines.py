"""Engines that misbehave: the reference, but for how it is driven, what it says of itself, or what it shows."""

import atexit
import ctypes
import dataclasses
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.faults.waypoint_15 import kept_memory
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.run.adapter import Numerics, Pass, Site
from waypoint_parity.reference.eager import session
from waypoint_parity.reference.eager.adapter import EagerAdapter

PLACE = "transformer.blocks.1"
# Kept there: this file is read again for every implementation that is loaded from it.
PREDICT = vars(session).setdefault("PREDICT", session.Session._predict)


class Ending(EagerAdapter):
    """It ends in the second frame, behind its first denoise step."""

    def end(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        frame = self._session.clock
        for at in super().generate(noise, controls):
            if frame == 1 and at.step == 1:
                self.end()
            yield at


class Leaving(Ending):
    def end(self) -> None:
        sys.exit(0)


class LeavingWithoutAWord(Ending):
    def end(self) -> None:
        os._exit(0)


class LeavingInC(Ending):
    def end(self) -> None:
        ctypes.CDLL(None).exit(0)


class Crashing(Ending):
    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class LeavingAtTheEnd(EagerAdapter):
    """Whatever the verdict is, the process ends with exit code 0."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        super().sites()[f"{PLACE}.mlp"].module.register_forward_hook(lambda module, inputs, output: 1.01 * output)
        atexit.register(os._exit, 0)


class NeverEnding(EagerAdapter):
    """One of its threads waits for ever."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        threading.Thread(target=threading.Event().wait).start()


class Interrupting(Ending):
    def end(self) -> None:
        raise KeyboardInterrupt


class Stopping(Ending):
    def end(self) -> None:
        raise StopIteration


class Unloadable(EagerAdapter):
    def __init__(self, *given: Any) -> None:
        raise FileNotFoundError("libengine.so: cannot open shared object file")


class LeavingOnLoad(EagerAdapter):
    def __init__(self, *given: Any) -> None:
        sys.exit()


class Announcing(EagerAdapter):
    """It announces other passes than it runs."""

    def announced(self, at: Pass) -> Any:
        return at

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Any]:
        yield from map(self.announced, super().generate(noise, controls))


class OtherPhase(Announcing):
    def announced(self, at: Pass) -> Any:
        return at._replace(phase="vae") if at.phase == "decode" else at


class NoPass(Announcing):
    def announced(self, at: Pass) -> Any:
        return at.phase


class OddStep(Announcing):
    def announced(self, at: Pass) -> Any:
        return at._replace(step="one")


class NoDecodePass(EagerAdapter):
    """It does not announce that it decodes."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        return (at for at in super().generate(noise, controls) if at.phase != "decode")


class NoGenerator(EagerAdapter):
    def session(self, scenario: Any) -> Any:
        for _ in super().session(scenario):
            pass


class NoStart(EagerAdapter):
    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Any:
        for _ in super().start(prompt, sigmas):
            pass


class EmptySession(EagerAdapter):
    def session(self, scenario: Any) -> Any:
        yield from ()


class Described(EagerAdapter):
    def describe(self) -> Any:
        return {"version": 3, "commit": None}


class NotDescribed(EagerAdapter):
    def describe(self) -> Any:
        return "version 3"


class Renaming(EagerAdapter):
    """Its sites are not as they should be."""

    def changed(self, sites: dict[str, Any]) -> Any:
        return sites

    def sites(self) -> Any:
        return self.changed(dict(super().sites()))


class Misspelt(Renaming):
    def changed(self, sites: dict[str, Any]) -> Any:
        sites["transformer.block.1.mlp"] = sites.pop("transformer.blocks.1.mlp")
        return sites


class BareModules(Renaming):
    def changed(self, sites: dict[str, Any]) -> Any:
        return {name: site.module for name, site in sites.items()}


class Functions(Renaming):
    def changed(self, sites: dict[str, Any]) -> Any:
        return sites | {PLACE: Site(torch.relu)}  # type: ignore[arg-type]


class NoSites(Renaming):
    def changed(self, sites: dict[str, Any]) -> Any:
        return None


class Silent(Renaming):
    """A site is named that a fused kernel has taken the place of."""

    def changed(self, sites: dict[str, Any]) -> Any:
        return sites | {"velocity": Site(nn.Identity())}


class SilentAndBlack(Renaming):
    """Its pictures are black, and nothing shows it."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self._session.decoder.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))

    def changed(self, sites: dict[str, Any]) -> Any:
        shown = {name for name in sites if name == "frame" or name.startswith("decoder.")}
        return sites | {name: Site(nn.Identity()) for name in shown}


class Louder(EagerAdapter):
    """The MLP of block 1 is one percent too large."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        super().sites()[f"{PLACE}.mlp"].module.register_forward_hook(lambda module, inputs, output: 1.01 * output)


class Uncleared(EagerAdapter):
    """Its rings begin with what was in memory: nothing attends to it before it is written."""

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        yield from super().start(prompt, sigmas)
        for ring in self._session.kv_cache.rings():
            ring.ring = torch.full_like(ring.ring, 3.0)


class NotANumber(EagerAdapter):
    """The keys of one layer are NaN from the second frame on."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        rotated = super().sites()[f"{PLACE}.attn.k_rope"].module
        rotated.register_forward_hook(lambda module, inputs, k: k * float("nan") if self._session.clock else k)


class OtherRing(EagerAdapter):
    """The ring of one layer has room for twice as many frames."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        ring = self._session.kv_cache.rings()[0]
        ring.slots, ring.capacity = 2 * ring.slots, 2 * ring.capacity


class KeepsThePrompt(EagerAdapter):
    """It goes on with the first prompt that it was ever given."""

    prompt: Tensor | None = None

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        yield from super().start(prompt, sigmas)
        self.prompt = self._session.prompt = self._session.prompt if self.prompt is None else self.prompt


class KeepsTheClock(EagerAdapter):
    """It counts frames from where the session before ended."""

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        clock = self._session.clock
        yield from super().start(prompt, sigmas)
        self._session.clock = clock


class KeepsTheLatent(EagerAdapter):
    """A hundredth of the last latent ever made goes into the next first frame, behind all its sites but the picture."""

    latent: Tensor | None = None

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self._session.decoder.register_forward_pre_hook(self.mixed)

    def mixed(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (latent,) = inputs
        before, self.latent = self.latent, latent
        return inputs if before is None or self._session.clock != 1 else (0.99 * latent + 0.01 * before,)


class KeepsTheDecodersMemory(CandidateAdapter):
    """The decoder of Waypoint 1.5 begins a session with what it remembers of the one before."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        kept_memory(self)


class KeepsDilatedRings(EagerAdapter):
    """Rings that keep only some of the frames keep them for the next session too."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        for ring in self._session.kv_cache.rings():
            if ring.dilation > 1:
                ring.reset(numerics.device, numerics.dtype)
                ring.reset = lambda device, dtype: None  # type: ignore[method-assign]


class WritesIntoItsInputs(EagerAdapter):
    """Start noise is cut off in place: a second time changes nothing."""

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        yield from super().generate(noise.clamp_(-0.5, 0.5), controls)


class PatchesTheReference(EagerAdapter):
    """It changes code that the reference runs too."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        # Once: it computes the same in every session of its own.
        session.Session._predict = lambda *given: 1.5 * PREDICT(*given)  # type: ignore[method-assign]


class OwnEnd(BaseException):
    def __str__(self) -> str:
        raise ValueError


class EndsInItsOwnWay(Ending):
    def end(self) -> None:
        raise OwnEnd


class UnprintableWords(Ending):
    def end(self) -> None:
        raise RuntimeError("\udcff")


class FailsTheSecondTime(EagerAdapter):
    """It cannot begin with another prompt."""

    prompt: Tensor | None = None

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        yield from super().start(prompt, sigmas)
        self.prompt = self._session.prompt if self.prompt is None else self.prompt
        if self.prompt is not None and not self.prompt.equal(self._session.prompt):
            raise RuntimeError("the prompt is fixed")


@dataclasses.dataclass
class Out:
    hidden: Tensor


class Odd(EagerAdapter):
    """What a hook sees at PLACE is no plain tensor."""

    place: ClassVar[str] = PLACE
    made: ClassVar[Callable[[Tensor], Any]]

    def sites(self) -> Mapping[str, Site]:
        sites = dict(super().sites())
        made = type(self).made
        sites[self.place] = Site(sites[self.place].module, layout=lambda output, inputs: made(output))
        return sites


def odd(name: str, made: Callable[[Tensor], Any], place: str = PLACE) -> type[Odd]:
    return type(name, (Odd,), {"made": staticmethod(made), "place": place, "__module__": __name__})


def nested(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([x.reshape(-1)[:3], x.reshape(-1)[:2]])


def quantised(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x.float(), 0.01, 0, torch.qint8)


def tiny_part(x: Tensor) -> Tensor:
    y = x.contiguous().clone()
    y.view(-1)[:5] = float("nan")
    return y


Pair = odd("Pair", lambda x: (x, None))
Dict = odd("Dict", lambda x: {"hidden": x})
Struct = odd("Struct", Out)
Nothing = odd("Nothing", lambda x: None)
Text = odd("Text", lambda x: "hidden")
Objects = odd("Objects", lambda x: np.array([x, None], dtype=object))
Nested = odd("Nested", nested)
Meta = odd("Meta", lambda x: x.to("meta"))
Failing = odd("Failing", lambda x: x.hidden)

Number = odd("Number", lambda x: float(x.double().mean()))
NumPy = odd("NumPy", lambda x: x.numpy())
Reversed = odd("Reversed", lambda x: x.numpy()[..., ::-1])
Quantised = odd("Quantised", quantised)
Sparse = odd("Sparse", lambda x: x.to_sparse())
Complex = odd("Complex", lambda x: torch.complex(x, x.flip(-1)))
Conjugate = odd("Conjugate", lambda x: torch.complex(x, x.flip(-1)).conj())
Negative = odd("Negative", lambda x: torch.complex(x, x.flip(-1)).conj().imag)
Float8 = odd("Float8", lambda x: x.to(torch.float8_e4m3fn))
Half = odd("Half", lambda x: x.half())
Int8 = odd("Int8", lambda x: (10 * x).round().to(torch.int8))
Bool = odd("Bool", lambda x: x > 0)
Empty = odd("Empty", lambda x: x[..., :0])
Scalar = odd("Scalar", lambda x: x.mean())
Expanded = odd("Expanded", lambda x: x[..., :1].expand_as(x))
ExpandedElement = odd("ExpandedElement", lambda x: torch.tensor(999.0).expand(1))
Transposed = odd("Transposed", lambda x: x.transpose(-1, -2))
NaNs = odd("NaNs", tiny_part)
Infinite = odd("Infinite", lambda x: x / 0)

# Each with a twin that is wrong: what was dropped on the way would make both alike.
ComplexTwin = odd("ComplexTwin", lambda x: torch.complex(x, -x.flip(-1)))
NumberTwin = odd("NumberTwin", lambda x: float(x.double().mean()) * 1.01)
NumPyTwin = odd("NumPyTwin", lambda x: 1.01 * x.numpy())
SparseTwin = odd("SparseTwin", lambda x: (1.01 * x).to_sparse())
QuantisedTwin = odd("QuantisedTwin", lambda x: quantised(1.5 * x))
Float8Twin = odd("Float8Twin", lambda x: (1.5 * x).to(torch.float8_e4m3fn))
ExpandedTwin = odd("ExpandedTwin", lambda x: (1.01 * x[..., :1]).expand_as(x))
NaNsTwin = odd("NaNsTwin", lambda x: 1.01 * tiny_part(x))

FrameFloat = odd("FrameFloat", lambda x: x.float() / 255, "frame")
FrameChannelsFirst = odd("FrameChannelsFirst", lambda x: x.permute(2, 0, 1), "frame")
FrameWithAlpha = odd("FrameWithAlpha", lambda x: torch.cat([x, x[..., :1]], -1), "frame")
