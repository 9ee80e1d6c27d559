"""The exact shadow: fp64 values beside everything that an implementation computes, without touching what it computes.

A dispatch mode sees every operation of torch. Beside the storage of each floating result it keeps a flat fp64 copy.
The shadow of a tensor is that copy, seen with the tensor's size, stride and offset. So views cost nothing, writes in
place and copies into preallocated caches reach every view, and code that asks for dtypes or types sees plain tensors.
What was not computed (weights, inputs, values put in place) is its own shadow: no second copy of the weights is kept.

What a model rounds on purpose stays rounded: a weight, an input or a constant that is cast to less than fp32. Whatever
chooses or jumps (topk, sort, argmax, round, floor) takes the choice that the implementation made. Draws are not drawn.

Lanes beside the exact one are disturbed: each result goes, at random, to one of its two neighbours in the dtype that
the operation returned; results that are exact stay. Their spread is what rounding does to a value. What a session
computes in fp64 counts as fp32 there: a port that has no fp64 is as precise as it may be.
"""

import enum
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

from waypoint_parity.harness.compare.exact.forms import FORMS
from waypoint_parity.harness.compare.exact.rounding import either_neighbour, one_unit_off


def _named(operations: str) -> frozenset[str]:
    return frozenset(operations.split())


_WIDE = {
    torch.float64: torch.float64,
    torch.float32: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float16: torch.float64,
    torch.float8_e4m3fn: torch.float64,
    torch.float8_e5m2: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex128: torch.complex128,
}
_WHOLE = frozenset([torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
# Operations whose error is made before their last rounding: sums, exponents, coordinates. In a disturbed lane they run
# their own kernel in their own dtype.
_OWN_KERNEL = _named(
    """
    linear matmul mm bmm addmm baddbmm addmv mv dot vdot inner outer einsum tensordot conv1d conv2d conv3d
    convolution _convolution conv_transpose1d conv_transpose2d conv_transpose3d scaled_dot_product_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
    _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention
    softmax _softmax log_softmax _log_softmax logsumexp mean sum cumsum cumprod prod var std var_mean std_mean norm
    linalg_vector_norm layer_norm native_layer_norm group_norm native_group_norm batch_norm native_batch_norm
    rms_norm _fused_rms_norm _weight_norm _weight_norm_interface upsample_bicubic2d upsample_bilinear2d
    upsample_trilinear3d grid_sampler_2d grid_sampler_3d avg_pool2d avg_pool3d adaptive_avg_pool2d logspace linspace
    arange fft_fft fft_rfft fft_ifft fft_irfft stft
    """
)
# In place, but of sizes and history only.
_METADATA = _named("detach_ squeeze_ unsqueeze_ t_ transpose_ as_strided_ requires_grad_ swapaxes_ set_ resize_")
_CASTS = _named("to _to_copy type_as _autocast_to_reduced_precision _autocast_to_full_precision")
_FILLS = _named("copy_ fill_ zero_")
_DRAWS = _named(
    """
    rand rand_like randn randn_like normal normal_ uniform_ bernoulli bernoulli_ exponential_ log_normal_ cauchy_
    geometric_ random_ poisson empty empty_like empty_strided empty_permuted new_empty new_empty_strided
    """
)
# Draws that are whole numbers.
_COUNTS = _named("bernoulli binomial poisson")
# Here the implementation's own result is taken: a whole number, or a choice among values.
_JUMPS = _named(
    """
    round floor ceil trunc fix sign sgn heaviside floor_divide unique _unique2 unique_consecutive unique_dim
    """
)
# So much memory shadows take of tensors that may be gone.
_MOST_BYTES = 1 << 28
_MOST_LANES = 64


class _Origin(enum.Enum):
    GIVEN = enum.auto()  # a weight, an input, a draw
    CONSTANT = enum.auto()  # made of nothing but numbers in the code
    COMPUTED = enum.auto()


class _Followed:
    """What is known of a storage. `lanes`: its shadows, flat; None where its values are their own shadow."""

    __slots__ = ("dtype", "lanes", "lost", "origin", "ref")

    def __init__(self, x: Tensor, origin: _Origin, lost: str | None = None) -> None:
        self.ref = StorageWeakRef(x.untyped_storage())
        self.dtype = _real(x.dtype)
        self.lanes: list[Tensor] | None = None
        self.origin = origin
        self.lost = lost


class Shadow(TorchDispatchMode):
    """The shadow of all that runs while it is entered, first of all the building of the model.

    It may be left and entered again. `below` counts operations that would not run in fp64, `foreign` floating inputs of
    operations that came from nowhere (NumPy, C), and numbers that were read of what was computed. Behind either there
    is no shadow: see `lost`.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        *,
        lanes: int = 0,
        seed: int = 0,
        given: Callable[[Tensor], bool] = lambda tensor: False,
        constants_rounded: bool = True,
        stand_ins: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """`lanes`: how many disturbed ones beside the exact one, with roundings drawn from `seed`.

        `given` tells a weight or an input from other tensors that were not computed here. Constants keep what less
        than fp32 rounds off unless they are not `constants_rounded`. `stand_ins`, by the name of an operation, compute
        in tensor algebra what a kernel does that knows no fp64.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        # With the exact one. A session may have fewer than the model was built with.
        self.lanes = 1 + lanes
        self.below: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()
        # Where it is false nothing is followed: what operations make is taken for exact as it is.
        self.follows = True
        self._given = given
        self._constants_rounded = constants_rounded
        self._forms = {**FORMS, **(stand_ins or {})}
        # Odd numbers, by which the lanes differ.
        self._salts = [2 * salt + 1 for salt in random.Random(seed).choices(range(1 << 62), k=_MOST_LANES)]
        self._kept: dict[int, _Followed] = {}
        self._numbers = _Numbers(self)
        self._number: complex | None = None
        self._opened: list[ExitStack] = []
        # While a model is built, tables are made in fp64 whose error grows with the length of a session.
        self._built = False
        # Bytes of shadows since those of tensors that are gone were let go.
        self._since = 0

    def __enter__(self) -> Self:
        opened = ExitStack()
        # A compiled kernel shows no operations: it runs as it is written.
        opened.enter_context(torch.compiler.set_stance("force_eager"))
        opened.enter_context(self._numbers)
        self._opened.append(opened)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._opened.pop().close()
        self._let_go()

    def of(self, x: Tensor, lane: int = 0) -> Tensor:
        """The shadow of `x` in fp64; `x` itself where it is not floating. The next operation may change it."""
        if x.dtype not in _WIDE:
            return x
        kept = self._find(x)
        if kept is None or kept.lanes is None or kept.dtype is not _real(x.dtype):
            return x.to(_WIDE[x.dtype])
        return _seen_as(kept.lanes[lane], x)

    def lost(self, x: Tensor) -> str | None:
        """Why the shadow of `x` is not exact; None where it is."""
        if x.dtype not in _WIDE:
            return None
        kept = self._find(x)
        if kept is not None:
            return kept.lost
        return None if self._given(x) else "no operation made it"

    @property
    def unfollowed(self) -> list[str]:
        """What there is no shadow behind, in words."""
        return [*self.below, *self.foreign]

    @property
    def bytes(self) -> int:
        """How much memory the shadows take that are kept."""
        alive = (kept for kept in self._kept.values() if not kept.ref.expired())
        return sum(8 * lane.numel() for kept in alive for lane in kept.lanes or ())

    def put(self, x: Tensor) -> None:
        """Take `x` for exact, and for computed: a value that is put in the place of another one."""
        self._remember(x, _Origin.COMPUTED)

    def know(self, x: Tensor, lanes: Sequence[Tensor], lost: str | None) -> None:
        """Take `lanes` for the exact value of `x` and the disturbed ones, as found in another process."""
        # Nothing is computed here after which it would be done, and only what waits for its partner lives on.
        self._let_go()
        self._keep(x, self._remember(x, _Origin.COMPUTED, lost), lanes)

    def give(self, tensors: Iterable[Tensor]) -> None:
        """Take the storages of `tensors` for exact inputs."""
        for x in tensors:
            self._remember(x, _Origin.GIVEN)

    def lose(self, x: Tensor, reason: str) -> None:
        """Take `x` for an input whose exact values are not known."""
        self._remember(x, _Origin.GIVEN, reason)

    def constant(self, x: Tensor, exact: Tensor) -> None:
        """Take `x` for a constant whose fp64 value is `exact`; less than fp32 is a rounding on purpose."""
        kept = self._remember(x, _Origin.CONSTANT)
        if not _is_narrow(x.dtype) or not self._constants_rounded:
            self._keep(x, kept, [exact] * self.lanes)

    def gathered(self, x: Tensor, data: Any) -> None:
        """Take `x` for what it was made of: lists of numbers and of tensors of one element."""
        scalars = _tensors(data)
        lost = next((reason for reason in map(self.lost, scalars) if reason), None)

        def made(lane: int) -> Tensor:
            numbers = _plain(data, lambda y: self.of(y, lane).item())
            return torch.tensor(numbers, dtype=_WIDE[x.dtype], device=x.device)

        self._keep(x, self._remember(x, _Origin.COMPUTED, lost), [made(lane) for lane in range(self.lanes)])

    def read(self, name: str, x: Tensor) -> None:
        """Note that numbers were read of `x`: behind them there is no shadow, if `x` has one."""
        if self not in _get_current_dispatch_mode_stack() or x.dtype not in _WIDE:
            return
        with _disable_current_modes(), torch.inference_mode():
            if not torch.equal(self.of(x), x.to(_WIDE[x.dtype])):
                self.foreign[f"{name} of {list(x.shape)} {x.dtype} that were computed"] += 1

    @contextmanager
    def writing(self, number: complex) -> Iterator[None]:
        """A tensor from nowhere of one element is this number of the code."""
        self._number = number
        try:
            yield
        finally:
            self._number = None

    def settle(self) -> None:
        """Let go of shadows that are the values themselves, of copied or joined weights: the model is built."""
        self._built = True
        with _disable_current_modes(), torch.inference_mode():
            for kept in self._kept.values():
                if kept.lanes is not None and not kept.ref.expired():
                    self._settle(kept, torch.UntypedStorage._new_with_weak_ptr(kept.ref.cdata))

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.follows:
            return self._passed_over(func, args, kwargs)
        name = _name(func)
        if name in _METADATA:
            return func(*args, **kwargs)
        if torch.is_inference_mode_enabled():
            return self._followed(func, name, args, kwargs, nullcontext)
        return self._followed(func, name, args, kwargs, torch.inference_mode)

    def _followed(
        self, func: Any, name: str, args: Any, kwargs: Any, apart: Callable[[], AbstractContextManager[Any]]
    ) -> Any:
        """What the operation returns, followed `apart` from gradients."""
        written = [x for x in _written(func, args, kwargs) if not x.is_meta]
        draws = name in _DRAWS or _draws(func, args, kwargs)
        if written and not draws:
            with apart():
                for x in written:
                    self._own(x, whole=name in _FILLS and _is_whole(x))
        out = func(*args, **kwargs)
        if written:
            with apart():
                if draws:
                    self._draw(name, written, written if "dropout" in name or "rrelu" in name else [])
                else:
                    self._write(func, name, args, kwargs, written, _tensors((args, kwargs)))
        elif new := self._new(name, out, given := _tensors((args, kwargs))):
            with apart():
                if draws:
                    self._draw(name, new, given)
                else:
                    self._compute(func, name, args, kwargs, out, new, given)
        if self._since > _MOST_BYTES:
            self._let_go()
        return out

    def _new(self, name: str, out: Any, given: Sequence[Tensor]) -> list[Tensor]:
        """The floating results that have a storage of their own: the shadow of a view is that of its storage."""
        results = [x for x in _tensors(out) if x.dtype in _WIDE and not x.is_meta]
        if not results or name in ("lift_fresh", "lift_fresh_copy"):
            return []
        known = {_address(x) for x in given if not x.is_meta}
        return [x for x in results if _address(x) not in known]

    def _passed_over(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        known = {_address(x) for x in _tensors((args, kwargs)) if not x.is_meta}
        written = [] if _name(func) in _METADATA else _written(func, args, kwargs)
        for x in (*written, *_tensors(out)):
            if x.dtype in _WIDE and not x.is_meta and (_address(x) not in known or any(x is y for y in written)):
                self.put(x)
        return out

    def _compute(
        self, func: Any, name: str, args: Any, kwargs: Any, out: Any, new: list[Tensor], given: list[Tensor]
    ) -> None:
        """Keep the shadows of the storages that are `new`; those of views are there already."""
        made = name.endswith("_like") or name.startswith("new_")
        sources = [] if made else [x for x in given if x.dtype in _WIDE]
        lost, origins = self._behind(name, sources)
        factory = made or not given
        whole = name != "where" and not any(x.dtype in _WIDE for x in given)
        # A constant, an input or a weight in less than fp32 is one on purpose.
        fixed = (factory or name in _CASTS) and self._is_on_purpose(origins)
        lanes: dict[int, list[Tensor]] = {id(x): [] for x in new}
        for lane in range(self.lanes):
            own = bool(lane) and name in _OWN_KERNEL and all(_real(x.dtype) is self._rounds_to(x.dtype) for x in new)
            ran, reason = self._run(func, name, args, kwargs, out, lane, own=own, factory=factory, whole=whole)
            lost = lost or reason
            for x, y in zip(_tensors(out), _tensors(ran), strict=True):
                if id(x) in lanes:
                    lanes[id(x)].append(self._landed(y, x.dtype, lane, fixed=fixed, own=own))
        origin = _Origin.CONSTANT if origins <= {_Origin.CONSTANT} else _Origin.COMPUTED
        for x in new:
            kept = self._remember(x, origin, lost)
            self._keep(x, kept, lanes[id(x)])
            if _Origin.COMPUTED not in origins and _is_whole(x):
                self._settle(kept, x.untyped_storage())

    def _is_on_purpose(self, origins: set[_Origin]) -> bool:
        """Whether to round what comes of these is part of the model."""
        if _Origin.COMPUTED in origins:
            return False
        return self._constants_rounded or _Origin.GIVEN in origins

    def _draw(self, name: str, drawn: list[Tensor], given: list[Tensor]) -> None:
        """Take what was `drawn` as it is. Where values were computed that it was drawn about, that is not exact."""
        about = [] if name.endswith("_like") or name.startswith("new_") else [x for x in given if x.dtype in _WIDE]
        lost, origins = self._behind(name, about)
        if _Origin.COMPUTED in origins and name not in _COUNTS:
            lost = lost or f"{name} draws about values that were computed"
        for x in drawn:
            if x.dtype in _WIDE:
                self._take_own(x)
                kept = self._kept[_address(x)]
                kept.lost = lost or (None if _is_whole(x) else kept.lost)

    def _landed(self, y: Tensor, dtype: torch.dtype, lane: int, *, fixed: bool, own: bool) -> Tensor:
        """The result `y` of a lane, where the operation itself returned `dtype`."""
        if own:
            return one_unit_off(y.to(dtype), self._salts[lane])
        y = y.to(_WIDE[dtype])
        if fixed and _is_narrow(dtype):
            return y.to(dtype).to(y.dtype)
        return either_neighbour(y, self._rounds_to(dtype), self._salts[lane]) if lane else y

    def _rounds_to(self, dtype: torch.dtype) -> torch.dtype:
        """What a disturbed lane rounds the results of an operation to. No port has to compute in fp64."""
        return torch.float32 if self._built and _real(dtype) is torch.float64 else _real(dtype)

    def _write(self, func: Any, name: str, args: Any, kwargs: Any, written: list[Tensor], given: list[Tensor]) -> None:
        """Do to the shadows of `written` what the operation has done to them."""
        floating = [x for x in written if x.dtype in _WIDE]
        self._forget_bits(name, written)
        if name.removesuffix("_") in _JUMPS:
            for x in floating:
                self._take_own(x)
            return
        if not floating:
            return
        # What is moved within a storage comes from there, and from no constant.
        sources = [x for x in given if x.dtype in _WIDE and not any(x is y for y in written)]
        lost, origins = self._behind(name, sources)
        fixed = name in _FILLS and self._is_on_purpose(origins)
        for lane in range(self.lanes):
            reason = self._run(func, name, args, kwargs, None, lane)[1]
            lost = lost or reason
            for x in floating:
                shadow = self.of(x, lane)
                shadow.copy_(x if reason else self._landed(shadow, x.dtype, lane, fixed=fixed, own=False))
        for x in floating:
            kept = self._kept[_address(x)]
            if name in _FILLS and _is_whole(x):
                kept.lost = lost
                kept.origin = _Origin.CONSTANT if origins <= {_Origin.CONSTANT} else _Origin.COMPUTED
                if _Origin.COMPUTED not in origins:
                    self._settle(kept, x.untyped_storage())
            else:
                kept.lost, kept.origin = kept.lost or lost, _Origin.COMPUTED

    def _forget_bits(self, name: str, written: Sequence[Tensor]) -> None:
        """Let go of shadows over which something was written as another dtype."""
        for x in written:
            kept = self._find(x)
            if kept is not None and kept.lanes is not None and kept.dtype is not _real(x.dtype):
                kept.lanes, kept.lost = None, f"{name} wrote {x.dtype} over {kept.dtype}"

    def _run(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        out: Any,
        lane: int,
        *,
        own: bool = False,
        factory: bool = False,
        whole: bool = False,
    ) -> tuple[Any, str | None]:
        """(what the operation makes of the shadows in a lane, why it is not that)."""
        if name in _JUMPS:
            return out, None
        try:
            wide_args = tuple(self._widened(value, lane, own=own, whole=whole) for value in args)
            wide = {key: self._widened(value, lane, own=own, whole=whole) for key, value in kwargs.items()}
            if factory and not own and "dtype" in _arguments(func):
                wide["dtype"] = next(_WIDE[x.dtype] for x in _tensors(out) if x.dtype in _WIDE)
            if own:
                return func(*wide_args, **wide), None
            if (form := self._forms.get(name)) is not None:
                found = form(func, wide_args, wide, args, kwargs, out)
                if found is not NotImplemented:
                    return found, None
            return func(*wide_args, **wide), None
        except (RuntimeError, NotImplementedError, TypeError) as error:
            reason = f"{name} does not run in fp64: {str(error).partition(chr(10))[0][:120]}"
            self.below[reason] += 1
            return out, reason

    def _widened(self, x: Any, lane: int, *, own: bool, whole: bool) -> Any:
        """An argument as a lane has it; in an `own` kernel in its own dtype. `whole`: all are whole numbers."""
        if isinstance(x, Tensor):
            if x.layout is not torch.strided:
                raise NotImplementedError(f"{x.layout} has no shadow")
            if own:
                return self._own_of(x, lane)
            # What is made of whole numbers alone, such as arange(4) / 3, would have the default dtype.
            return x.double() if whole and x.dtype in _WHOLE else self.of(x, lane)
        if isinstance(x, torch.dtype):
            return x if own else _WIDE.get(x, x)
        if type(x) in (list, tuple):
            return type(x)(self._widened(value, lane, own=own, whole=whole) for value in x)
        return x

    def _own_of(self, x: Tensor, lane: int) -> Tensor:
        """The shadow of `x` in a disturbed lane, in the dtype of `x`, where it lies already."""
        kept = self._find(x) if x.dtype in _WIDE else None
        return x if kept is None or kept.lanes is None else self.of(x, lane).to(x.dtype)

    def _behind(self, name: str, sources: Sequence[Tensor]) -> tuple[str | None, set[_Origin]]:
        """(why there is no shadow behind these sources, if so; what they are). Those from nowhere are noted."""
        lost, origins = None, set()
        for x in sources:
            kept = self._find(x)
            if kept is None and self._number is not None and x.dim() == 0:
                self.constant(x, torch.tensor(self._number, dtype=_WIDE[x.dtype], device=x.device))
                kept = self._find(x)
            if kept is None:
                reason = None if self._given(x) else f"{name} was given {list(x.shape)} {x.dtype} from nowhere"
                if reason is not None:
                    self.foreign[reason] += 1
                kept = self._remember(x, _Origin.GIVEN, reason)
            elif kept.lanes is not None and kept.dtype is not _real(x.dtype):
                lost = lost or f"{name} reads {kept.dtype} as {x.dtype}"
            lost = lost or kept.lost
            origins.add(kept.origin)
        return lost, origins

    # Storages.

    def _find(self, x: Tensor) -> _Followed | None:
        kept = self._kept.get(_address(x))
        if kept is None or kept.ref.expired():
            return None
        if kept.lanes is not None and len(kept.lanes) < self.lanes:
            # Of a session with fewer lanes: exact in those that are new.
            kept.lanes += [kept.lanes[0].clone() for _ in range(self.lanes - len(kept.lanes))]
        if kept.lanes is not None and kept.lanes[0].numel() != x.untyped_storage().nbytes() // kept.dtype.itemsize:
            kept.lanes, kept.lost = None, "a storage was resized"
        return kept

    def _remember(self, x: Tensor, origin: _Origin, lost: str | None = None) -> _Followed:
        kept = self._kept[_address(x)] = _Followed(x, origin, lost)
        return kept

    def _own(self, x: Tensor, *, whole: bool) -> None:
        """Give the storage of `x`, which is about to be written, as a `whole` or in part, a shadow of its own."""
        if x.dtype not in _WIDE:
            return
        kept = self._find(x) or self._remember(x, _Origin.GIVEN)
        if kept.lanes is None:
            kept.dtype = _real(x.dtype)
            if whole:
                size = x.untyped_storage().nbytes() // kept.dtype.itemsize
                kept.lanes = [torch.empty(size, dtype=torch.float64, device=x.device) for _ in range(self.lanes)]
            else:
                flat = _flat(x.untyped_storage(), kept.dtype)
                kept.lanes = [flat.to(torch.float64, copy=True) for _ in range(self.lanes)]

    def _take_own(self, x: Tensor) -> None:
        """Let what `x` shows be its own shadow."""
        kept = self._find(x)
        if kept is None:
            self.give([x])
        elif kept.lanes is not None:
            for lane in range(self.lanes):
                self.of(x, lane).copy_(x)

    def _keep(self, x: Tensor, kept: _Followed, lanes: Sequence[Tensor]) -> None:
        size = x.untyped_storage().nbytes() // kept.dtype.itemsize
        kept.lanes = [_laid_out(y, x, size) for y in lanes]
        self._since += 8 * size * len(lanes)

    def _let_go(self) -> None:
        """Forget tensors that are gone."""
        self._kept = {address: kept for address, kept in self._kept.items() if not kept.ref.expired()}
        self._since = 0

    def _settle(self, kept: _Followed, storage: torch.UntypedStorage) -> None:
        """Forget a shadow that is the value itself in every lane."""
        if kept.lanes is not None:
            own = _flat(storage, kept.dtype).double()
            if all(torch.equal(own, lane) for lane in kept.lanes):
                kept.lanes = None
                if kept.origin is _Origin.COMPUTED:
                    kept.origin = _Origin.GIVEN


class _Numbers(TorchFunctionMode):
    """Knows the fp64 values of tensors that are made of numbers in the code, which no operation sees."""

    _MAKERS = frozenset((torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor))

    _READERS = frozenset(
        getattr(torch.Tensor, name) for name in ("item", "tolist", "numpy", "__float__", "__complex__", "__array__")
    )

    def __init__(self, shadow: Shadow) -> None:
        super().__init__()
        self._shadow = shadow

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self._READERS:
            self._shadow.read(getattr(func, "__name__", "numbers"), args[0])
        if func is torch.Tensor.__setitem__ and _is_numbers(args[2]):
            with self._shadow.writing(args[2]):
                return func(*args, **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if func not in self._MAKERS:
            return out
        if out.dtype in _WIDE and not out.is_meta:
            place = int(func is torch.Tensor.new_tensor)
            data = args[place] if len(args) > place else (kwargs or {}).get("data", (kwargs or {}).get("obj"))
            if _is_numbers(data):
                with _disable_current_modes():
                    self._shadow.constant(out, torch.tensor(data, dtype=_WIDE[out.dtype], device=out.device))
            elif isinstance(data, (list, tuple)) and _is_numbers(_plain(data, lambda x: 0.0 if x.dim() == 0 else x)):
                with _disable_current_modes(), torch.inference_mode():
                    self._shadow.gathered(out, data)
        return out


def _is_numbers(data: Any) -> bool:
    return all(map(_is_numbers, data)) if isinstance(data, (list, tuple)) else type(data) in (int, float, bool, complex)


def _plain(data: Any, number: Callable[[Tensor], Any]) -> Any:
    """Lists of numbers and tensors, with a number in the place of each tensor."""
    if isinstance(data, (list, tuple)):
        return [_plain(value, number) for value in data]
    return number(data) if isinstance(data, Tensor) else data


def _laid_out(y: Tensor, x: Tensor, size: int) -> Tensor:
    """`y` as flat as the storage of `x`, which has `size` elements; its own memory where it is laid out so."""
    alike = y.stride() == x.stride() and y.storage_offset() == 0 == x.storage_offset()
    if alike and not y.is_complex() and y.untyped_storage().nbytes() == 8 * size:
        return y.as_strided((size,), (1,))
    parts = torch.zeros(size, dtype=torch.float64, device=x.device)
    _seen_as(parts, x).copy_(y)
    return parts


def _seen_as(flat: Tensor, x: Tensor) -> Tensor:
    if x.is_complex():
        flat = torch.view_as_complex(flat.view(-1, 2))
    shown = flat.as_strided(x.size(), x.stride(), x.storage_offset())
    # A view, in which a write lands where it does in `x`.
    return shown.conj() if x.is_conj() else torch._neg_view(shown) if x.is_neg() else shown


def _flat(storage: torch.UntypedStorage, dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype, device=storage.device).set_(storage)


def _is_whole(x: Tensor) -> bool:
    """Whether `x` shows every element of its storage."""
    return x.numel() * x.element_size() == x.untyped_storage().nbytes()


def _is_narrow(dtype: torch.dtype) -> bool:
    return _real(dtype).itemsize < 4


def _real(dtype: torch.dtype) -> torch.dtype:
    return {torch.complex64: torch.float32, torch.complex128: torch.float64}.get(dtype, dtype)


def _address(x: Tensor) -> int:
    address: int = x.untyped_storage()._cdata
    return address


def _tensors(values: Any) -> list[Tensor]:
    """The tensors with strides among values, in lists and dictionaries of them too."""
    if isinstance(values, Tensor):
        return [values] if values.layout is torch.strided else []
    found: list[Tensor] = []
    for value in values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else ():
        if isinstance(value, (Tensor, list, tuple, dict)):
            found += _tensors(value)
    return found


@cache
def _name(func: Any) -> str:
    """The name of an operation, without namespace and overload where it is torch's own."""
    full: str = func.name() if callable(getattr(func, "name", None)) else str(func)
    return full.removeprefix("aten::").partition(".")[0]


@cache
def _arguments(func: Any) -> tuple[str, ...]:
    schema = getattr(func, "_schema", None)
    return () if schema is None else tuple(argument.name for argument in schema.arguments)


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    infos = enumerate(schema.arguments)
    return tuple((at, argument.name) for at, argument in infos if argument.alias_info and argument.alias_info.is_write)


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation changes values at random, such as a dropout that is not switched off."""
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return False
    given = {**dict(zip(_arguments(func), args, strict=False)), **kwargs}
    if "dropout_p" in _arguments(func):
        return bool(given.get("dropout_p", 0.0))
    switches = [name for name in ("train", "training") if name in _arguments(func)]
    return not switches or bool(given.get(switches[0], False))


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors among the arguments that an operation writes."""
    values = [args[at] if at < len(args) else kwargs.get(name) for at, name in _written_arguments(func)]
    return list(_tensors(values))
