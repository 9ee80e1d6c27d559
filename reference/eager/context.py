"""What all blocks of one pass share."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class PassContext:
    """Everything that a block reads besides its tokens; lives for one pass.

    frame: the frame clock
    angles: the frame's rotation, [T,D/2]
    cond, ctrl: embedded noise level and controls, [1,1,M]
    prompt: prompt embeddings, [1,P,E]; None where the model takes none
    first_value: layer 0's raw values, [1,G,T,D], which layer 0 fills in for the value residual of all layers
    """

    frame: int
    angles: Tensor
    cond: Tensor
    ctrl: Tensor
    prompt: Tensor | None
    first_value: Tensor | None = None
