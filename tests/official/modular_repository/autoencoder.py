"""The autoencoder of the tests' repository: the reference's, under the interface of a diffusers component."""

from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from waypoint_parity.harness.families.waypoint.config import AutoencoderConfig
from waypoint_parity.reference.eager.autoencoder import Autoencoder


class ToyAutoencoder(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(
        self,
        channels: int,
        latent_channels: int,
        encoder_ch_0: int,
        encoder_ch_max: int,
        encoder_blocks_per_stage: list[int],
        decoder_ch_0: int,
        decoder_ch_max: int,
        decoder_blocks_per_stage: list[int],
        sample_size: list[int],
        skip_logvar: bool,
        scale_factor: float,
        shift_factor: float,
    ) -> None:
        super().__init__()
        autoencoder = Autoencoder(AutoencoderConfig.read(dict(self.config), source="vae/config.json"))
        self.encoder, self.decoder = autoencoder.encoder, autoencoder.decoder

    def encode(self, image: Tensor) -> Tensor:
        """`image` [360,640,3] uint8 -> latent [1,C,H,W]."""
        latent: Tensor = self.encoder(image)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """`latent` [1,C,H,W] -> image [360,640,3] uint8."""
        image: Tensor = self.decoder(latent)
        return image
