"""Candidates with one deliberate change each, for `--candidate tests/parity/faulty.py:ClassName`."""

from collections.abc import Iterator

import torch
from torch import Tensor

from candidate.adapter import CandidateAdapter
from candidate.kv_cache import Window, WindowTable
from candidate.rope import Rotation
from harness.adapter import Controls, Numerics, Pass, Prompt
from harness.checkpoint import Checkpoint


class VelocityScaled(CandidateAdapter):
    """The velocity is a thousandth too large."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.velocity.register_forward_hook(lambda module, inputs, velocity: velocity * 1.001)


class RotationLeftOut(CandidateAdapter):
    """Queries and keys are not rotated."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.model.rope.register_forward_hook(
            lambda module, inputs, turn: Rotation(torch.ones_like(turn.cos), torch.zeros_like(turn.sin))
        )


class _StaleWindows(WindowTable):
    """While denoising, the frame goes to the spare slot and the slot that it will replace stays in sight."""

    denoising = False

    def at(self, clock: int) -> Window:
        slots = self.shape.slots
        if not self.denoising or clock < slots:
            return super().at(clock)
        return Window(self.rows[slots], (slots + 1) * self.rows.shape[1])


class StaleSlotVisible(CandidateAdapter):
    """Local layers see the slot that is about to be replaced."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        right = self.engine.local
        self.windows = _StaleWindows(right.shape, right.rows.shape[1], right.rows.device)
        self.engine.local = self.windows

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        for at in super().generate(noise, controls):
            self.windows.denoising = at.phase == "denoise"
            yield at


class CachePassSkipped(CandidateAdapter):
    """No pass of the clean latent: the keys and values of the last denoise step stay."""

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        passes = super().start(prompt, sigmas)
        session = self.session

        def remember(latent: Tensor, control: Tensor) -> None:
            for cache in self.engine.rings:
                cache.observe(session.clock)
            session.seek(session.clock + 1)

        session._remember = remember  # type: ignore[method-assign]
        return passes
