"""The key/value cache: per layer a ring of past frames, and a tail that holds the frame in work."""

import math

import torch
from torch import Tensor, nn

from waypoint_parity.harness.families.waypoint.config import TransformerConfig


class RingCache(nn.Module):
    """One layer's ring of R frames (L = R*T tokens), written every `dilation` frames, and its tail of T tokens.

    A dilated ring uses its first R/dilation slots of T tokens; the others stay zero and unwritten. State is replaced
    and never changed in place, so that a tensor that an observer holds does not change.
    """

    ring: Tensor
    tail: Tensor
    ring_written: Tensor

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.dilation = config.dilation(layer)
        self.slots = config.ring_frames(layer) // self.dilation
        self.tokens = config.tokens_per_frame
        self.capacity = config.ring_frames(layer) * config.tokens_per_frame
        self.n_kv_heads, self.head_dim = config.n_kv_heads, config.head_dim
        self.kv = nn.Identity()
        self.written = nn.Identity()
        self.visible = nn.Identity()

    def reset(self, device: torch.device, dtype: torch.dtype) -> None:
        """Nothing written; ring [2,1,G,L,D] and tail [2,1,G,T,D] hold keys, then values, in `dtype`."""
        per_token = (2, 1, self.n_kv_heads)
        self.ring = torch.zeros(*per_token, self.capacity, self.head_dim, device=device, dtype=dtype)
        self.tail = torch.zeros(*per_token, self.tokens, self.head_dim, device=device, dtype=dtype)
        self.ring_written = torch.zeros(self.capacity, device=device, dtype=torch.bool)

    def is_write_frame(self, frame: int) -> bool:
        """Whether the ring keeps this frame."""
        return frame % self.dilation == 0

    def slot(self, frame: int) -> int:
        """The ring slot that belongs to this frame."""
        return math.ceil(frame / self.dilation) % self.slots

    def in_sight(self, frame: int) -> Tensor:
        """The tokens that this frame sees, [L+T] bool: the tail, and what is written less the slot that it replaces."""
        mask = self._with_tail(self.ring_written)
        if self.is_write_frame(frame):
            mask[self._rows(frame)] = False
        return mask

    def see(self, frame: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put this frame's `k`, `v` [1,G,T,D] in the tail; return keys and values [1,G,S,D] of all S visible tokens."""
        self.tail = torch.stack([k, v])
        ring, tail = self.visible(self.in_sight(frame)).split([self.capacity, self.tokens])
        keys, values = torch.cat([self.ring[..., ring, :], self.tail[..., tail, :]], dim=3)
        return keys, values

    def commit(self, frame: int) -> None:
        """Keep the tail, on a write frame, in this frame's slot; then show the whole state at the two probes."""
        if self.is_write_frame(frame):
            rows = self._rows(frame)
            self.ring, self.ring_written = self.ring.clone(), self.ring_written.clone()
            self.ring[..., rows, :] = self.tail
            self.ring_written[rows] = True
        self.ring_written = self.written(self._with_tail(self.ring_written))[: self.capacity]
        kv = self.kv(torch.cat([self.ring, self.tail], dim=3))
        self.ring, self.tail = kv[..., : self.capacity, :], kv[..., self.capacity :, :]

    def _with_tail(self, ring: Tensor) -> Tensor:
        """`ring` [L] bool and, behind it, the tail's tokens, which are always there: [L+T]."""
        return torch.cat([ring, ring.new_ones(self.tokens)])

    def _rows(self, frame: int) -> slice:
        first = self.slot(frame) * self.tokens
        return slice(first, first + self.tokens)


class KVCache(nn.Module):
    """The ring caches of all layers."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RingCache(config, layer) for layer in range(config.n_layers))

    def rings(self) -> list[RingCache]:
        """The layers' caches, first layer first."""
        return [layer for layer in self.layers if isinstance(layer, RingCache)]

    def reset(self, device: torch.device, dtype: torch.dtype) -> None:
        """Forget every frame."""
        for ring in self.rings():
            ring.reset(device, dtype)

    def commit(self, frame: int) -> None:
        """After the cache pass of `frame`: every layer keeps it, where its dilation allows."""
        for ring in self.rings():
            ring.commit(frame)
