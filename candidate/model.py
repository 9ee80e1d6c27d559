"""The world model: a frame's latent, at a noise level, to its velocity."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from waypoint_parity.candidate.attention import PromptKeys
from waypoint_parity.candidate.blocks import Block, FramePlan
from waypoint_parity.candidate.conditioning import ControlEmbedding, Modulations, Modulator, NoiseConditioner, adapt
from waypoint_parity.candidate.config import WaypointConfig
from waypoint_parity.candidate.rope import OrthoRoPE


class Waypoint(nn.Module):
    """The world model; one transformer pass is `forward`.

    A pass is given all that need not be computed in every pass: the modulations of a noise level, the prompt's keys and
    values, the controls' part of each fusion, the plan of a frame.
    """

    def __init__(self, config: WaypointConfig) -> None:
        super().__init__()
        self.config = config
        self.noise_conditioner = NoiseConditioner(config)
        self.control_embedding = ControlEmbedding(config)
        self.modulator = Modulator(config)
        self.rope = OrthoRoPE(config)
        self.patchify = nn.Conv2d(config.channels, config.d_model, config.patch, stride=config.patch, bias=False)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.unpatchify = nn.Linear(config.d_model, config.channels * config.patch[0] * config.patch[1])
        self.out_norm = nn.Identity()  # a site

    @property
    def layers(self) -> list[Block]:
        """The blocks, as what they are."""
        return cast(list[Block], list(self.blocks))

    def forward(
        self,
        latent: Tensor,
        modulations: Modulations,
        prompt: tuple[PromptKeys | None, ...],
        control: tuple[Tensor | None, ...],
        rings: tuple[Tensor, ...],
        frame: FramePlan,
    ) -> Tensor:
        """`latent` [1,1,C,h*ph,w*pw] -> velocity of the same shape. Writes the frame's keys and values into `rings`.

        `prompt`, `control` and `rings` have one entry per block, None where the block has no use for it.
        """
        x = self.patchify(latent[:, 0]).flatten(2).transpose(1, 2).contiguous()  # [1,T,M]
        v_first = None
        parts = zip(self.blocks, modulations.blocks, prompt, control, rings, strict=True)
        for block, modulation, keys, projected, ring in parts:
            x, v = block(x, v_first, modulation, keys, projected, ring, frame)
            v_first = v if v_first is None else v_first
        x = self.out_norm(adapt(x, *modulations.out_norm.unbind(0)))
        return self._to_grid(self.unpatchify(functional.silu(x)))

    def _to_grid(self, patches: Tensor) -> Tensor:
        """Patches [1,T,C*ph*pw] of row-major tokens -> [1,1,C,h*ph,w*pw]."""
        config = self.config
        grid = patches.reshape(1, config.height, config.width, config.channels, *config.patch)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)[:, None]

    def read_prompt(self, embedding: Tensor) -> tuple[PromptKeys | None, ...]:
        """Keys and values per block of the prompt [1,P,E]."""
        return tuple(
            None if block.prompt_cross_attn is None else block.prompt_cross_attn.read(embedding)
            for block in self.layers
        )

    def read_control(self, embedding: Tensor) -> tuple[Tensor | None, ...]:
        """Per block, its fusion's product with the control embedding [1,1,M]."""
        return tuple(
            None if block.ctrl_mlpfusion is None else block.ctrl_mlpfusion.read(embedding) for block in self.layers
        )
