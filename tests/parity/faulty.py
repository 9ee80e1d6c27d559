"""Candidates with one deliberate change each, for `--candidate tests/parity/faulty.py:ClassName`."""

from typing import Any

from torch import Tensor

from waypoint_parity.candidate.adapter import CandidateAdapter
from waypoint_parity.fixtures.faults.attention import masked_prompt
from waypoint_parity.fixtures.faults.cache import stale_slot
from waypoint_parity.fixtures.faults.rope import no_rotation
from waypoint_parity.fixtures.faults.seeding import at_start
from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.run.adapter import Numerics


class VelocityScaled(CandidateAdapter):
    """The velocity is a thousandth too large."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.velocity.register_forward_hook(lambda module, inputs, velocity: velocity * 1.001)


class Coarse(CandidateAdapter):
    """The velocity is rounded to bf16."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        self.engine.velocity.register_forward_hook(lambda module, inputs, velocity: velocity.bfloat16().float())


class RotationLeftOut(CandidateAdapter):
    """Queries and keys are not rotated."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        no_rotation(self)


class PaddingMaskedOut(CandidateAdapter):
    """The prompt's padding is masked out of the cross-attention."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        masked_prompt(self)


class StaleSlotVisible(CandidateAdapter):
    """Local layers see the slot that is about to be replaced."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        stale_slot(self)


class CachePassSkipped(CandidateAdapter):
    """No pass of the clean latent: the keys and values of the last denoise step stay."""

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        super().__init__(checkpoint, numerics)
        at_start(self, lambda prompt, sigmas: skip_cache_pass(self))


def skip_cache_pass(adapter: Any) -> None:
    """Have the session in progress remember its frames as their last denoise step left them."""
    session = adapter.running

    def remember(latent: Tensor, control: Tensor) -> None:
        for cache in adapter.engine.rings:
            cache.observe(session.clock)
        session.seek(session.clock + 1)

    session._remember = remember
