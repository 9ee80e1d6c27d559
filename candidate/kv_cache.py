"""The key/value ring of one layer, laid out so that what a frame sees is always one contiguous run.

S = R / d slots hold every d-th frame; one spare behind the written slots holds a frame that will not be kept. A write
frame goes straight into the slot it replaces: the old contents are hidden from that very frame, and the frame's last
pass is the one that counts. So the slots in sight are the first ones of the buffer, whatever the frame: no mask, no
gather, no score for a slot that is hidden or was never written. (Softmax does not care for the order of the keys.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.config import WaypointConfig


@dataclass(frozen=True)
class RingShape:
    """R frames of capacity, every `dilation`-th frame written. What a frame sees follows from its clock alone."""

    frames: int
    dilation: int

    @property
    def slots(self) -> int:
        """S, the slots in use."""
        return self.frames // self.dilation

    def writes(self, clock: int) -> bool:
        """Whether frame `clock` stays in the ring."""
        return clock % self.dilation == 0

    def written(self, clock: int) -> int:
        """How many slots are written before frame `clock`: ceil(clock / dilation), at most S."""
        return min(-(-clock // self.dilation), self.slots)

    def slot(self, clock: int) -> int:
        """The slot that frame `clock` occupies while in work: the one it replaces, or the first behind the written."""
        return clock // self.dilation % self.slots if self.writes(clock) else self.written(clock)

    def visible(self, clock: int) -> int:
        """How many slots, counted from the first, frame `clock` sees: the written ones and the one it occupies."""
        return max(self.written(clock), self.slot(clock) + 1)


def ring_shape(config: WaypointConfig, *, dilated: bool) -> RingShape:
    """The ring of a dilated (global) or of a local layer."""
    if dilated:
        return RingShape(config.global_window, config.global_pinned_dilation)
    return RingShape(config.local_window, dilation=1)


@dataclass(frozen=True)
class Window:
    """Where in the rings of one shape a frame goes and what it sees: `rows` [T] int64, `length` in tokens.

    `rows` is a tensor, so that a compiled pass is not specialised on the slot.
    """

    rows: Tensor
    length: int


class WindowTable:
    """The windows of all frames, for rings of one shape."""

    def __init__(self, shape: RingShape, tokens: int, device: torch.device) -> None:
        self.shape = shape
        self.rows = torch.arange((shape.slots + 1) * tokens, device=device).view(-1, tokens)

    def at(self, clock: int) -> Window:
        """The window of frame `clock`."""
        return Window(self.rows[self.shape.slot(clock)], self.shape.visible(clock) * self.rows.shape[1])


def remember(ring: Tensor, k: Tensor, v: Tensor, window: Window) -> tuple[Tensor, Tensor]:
    """Put a frame's k, v [1,G,T,D] into `ring` [2,1,G,(S+1)*T,D]; return keys and values in sight, [1,G,length,D]."""
    keys, values = ring.unbind(0)
    keys.index_copy_(2, window.rows, k)
    values.index_copy_(2, window.rows, v)
    return keys[:, :, : window.length], values[:, :, : window.length]


class RingCache(nn.Module):
    """The ring of one layer in one session: `ring` [2,1,G,(S+1)*T,D], keys then values."""

    def __init__(self, config: WaypointConfig, layer: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.shape = ring_shape(config, dilated=config.is_global(layer))
        self.tokens = config.tokens
        capacity = (self.shape.slots + 1) * config.tokens
        self.ring = torch.zeros(2, 1, config.n_kv_heads, capacity, config.head_dim, dtype=dtype, device=device)
        # Sites, observed after a frame's cache pass.
        self.written, self.kv = nn.Identity(), nn.Identity()

    def observe(self, clock: int) -> None:
        """Show the sites as frame `clock` leaves them.

        What the `kv` probe hands back is the ring from then on; `written` is only shown: it follows from the clock.
        """
        self.written(self.official_written(clock))
        self.ring = self.kv(self.ring)

    def official_written(self, clock: int) -> Tensor:
        """[L+T] bool: the tokens of the official ring that are written once frame `clock` is over, and the tail."""
        frames = torch.zeros(self.shape.frames + 1, dtype=torch.bool, device=self.ring.device)
        frames[: self.shape.written(clock + 1)] = True
        frames[-1] = True
        return frames.repeat_interleave(self.tokens)

    def official_visible(self, window: Window) -> Tensor:
        """[L+T] bool: the tokens of the official ring that a pass with `window` attends to, and the tail.

        The frame in work is the official tail, wherever in the ring it lies; the slot it lies in is then hidden.
        """
        in_sight = torch.arange(self.ring.shape[3], device=self.ring.device) < window.length
        tail = in_sight[window.rows]
        ring = in_sight.index_fill(0, window.rows, False)[: self.shape.slots * self.tokens]
        unused = ring.new_zeros((self.shape.frames - self.shape.slots) * self.tokens)
        return torch.cat([ring, unused, tail])

    def native_window(self, official: Tensor, window: Window) -> Window:
        """The way back: the window that shows what `official` [L+T] does, of all that a right session shows.

        The frame in work then lies in the first slot that is not in sight.
        """
        tokens, slots = self.tokens, self.shape.slots
        in_sight: list[bool] = [*official[: slots * tokens : tokens].tolist(), False]
        slot = in_sight.index(False)
        return Window(window.rows - window.rows[0] + slot * tokens, (sum(in_sight) + 1) * tokens)

    def official_kv(self, ring: Tensor, clock: int) -> Tensor:
        """`ring` as the official cache holds it once frame `clock` is over, [2,1,G,L+T,D].

        That is: R slots in order, of which those never written are zero, then the tail frame.
        """
        frames = torch.unflatten(ring, 3, (-1, self.tokens))
        official = frames.new_zeros(*frames.shape[:3], self.shape.frames + 1, *frames.shape[4:])
        kept = self.shape.written(clock + 1)
        official[:, :, :, :kept] = frames[:, :, :, :kept]
        official[:, :, :, -1] = frames[:, :, :, self.shape.slot(clock)]
        return official.flatten(3, 4)

    def native_kv(self, official: Tensor, ring: Tensor, clock: int) -> Tensor:
        """The way back: `ring` with all that `official` [2,1,G,L+T,D] holds once frame `clock` is over."""
        frames = torch.unflatten(official, 3, (-1, self.tokens))
        native = torch.unflatten(ring, 3, (-1, self.tokens)).clone()
        kept = self.shape.written(clock + 1)
        native[:, :, :, self.shape.slot(clock)] = frames[:, :, :, -1]
        native[:, :, :, :kept] = frames[:, :, :, :kept]
        return native.flatten(3, 4)
