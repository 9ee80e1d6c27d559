"""What outlives a session: the loaded models, the memory of the rings, the compiled pass, the probes around it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from waypoint_parity.candidate.dcae import Dcae
from waypoint_parity.candidate.kv_cache import RingCache, WindowTable, ring_shape
from waypoint_parity.candidate.model import Waypoint
from waypoint_parity.candidate.taehv import Taehv

INPUTS = ("prompt_emb", "prompt_pad_mask", "button", "mouse", "scroll", "noise", "image", "sigma", "timestamp")


class Engine:
    """The native model, ready for one session after another.

    `transformer` is the pass, Waypoint.forward, compiled or not. Where and in which dtype it computes, the weights say.
    """

    def __init__(self, model: Waypoint, autoencoder: Dcae | Taehv, *, compiled: bool = False) -> None:
        self.model = model
        self.autoencoder = autoencoder
        self.transformer: Callable[..., Tensor] = compiled_pass(model) if compiled else model
        self.dtype, self.device = model.unpatchify.weight.dtype, model.unpatchify.weight.device
        config = model.config
        self.rings = [RingCache(config, layer, self.dtype, self.device) for layer in range(config.n_layers)]
        self.local = WindowTable(ring_shape(config, dilated=False), config.tokens, self.device)
        self.dilated = WindowTable(ring_shape(config, dilated=True), config.tokens, self.device)
        # Sites.
        self.inputs = nn.ModuleDict({name: nn.Identity() for name in INPUTS})
        self.denoise_step_emb, self.ctrl_emb = nn.Identity(), nn.Identity()
        self.velocity, self.latent = nn.Identity(), nn.Identity()
        # What a pass sees, and how it turns; once for all layers, and outside the compiled pass.
        self.rope_angles = nn.Identity()
        self.local_window, self.dilated_window = nn.Identity(), nn.Identity()

    def consume(self, name: str, value: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The input `name` where, and in the `dtype` in which, the model computes with it, past its probe."""
        consumed: Tensor = self.inputs[name](value.to(self.device, dtype or value.dtype))
        return consumed


def compiled_pass(model: Waypoint) -> Callable[..., Tensor]:
    """The transformer pass, compiled to one graph; where hooks watch sites inside it, to graphs between them."""
    compiled = torch.compile(model)

    def transform(*inputs: object) -> Tensor:
        # By default, code compiled before a hook was attached goes on running as if the hook were not there.
        with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
            velocity: Tensor = compiled(*inputs)
        return velocity

    return transform
