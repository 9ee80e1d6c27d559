"""The adapter of the eager reference: loads a checkpoint, runs sessions, names the module of every site."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from torch import Tensor

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.adapter import FrameByFrame, matching_sites
from waypoint_parity.harness.families.waypoint.config import TransformerConfig
from waypoint_parity.harness.families.waypoint.scenario import Controls, Prompt
from waypoint_parity.harness.families.waypoint.spelling import half_biases
from waypoint_parity.harness.run.adapter import Hypothesis, Numerics, Pass, Site
from waypoint_parity.reference.eager.formulations import FORMULATIONS
from waypoint_parity.reference.eager.generations import DIFFUSERS_FORM, Generation, generation_of
from waypoint_parity.reference.eager.hypotheses import MISTAKES
from waypoint_parity.reference.eager.layers import ConditioningHead
from waypoint_parity.reference.eager.model import load_world_model
from waypoint_parity.reference.eager.session import Session

DIFFUSERS = "diffusers-form"


def _change(change: Callable[[Session], None], adapter: "EagerAdapter") -> None:
    change(adapter._session)


class EagerAdapter(FrameByFrame):
    """Drives `reference.eager`; see harness.run.adapter.Adapter. Its layouts are the official ones.

    Its options are other formulations of the same mathematics, to measure a noise floor with; and `diffusers-form`, the
    other numerics in which Waypoint 1.5 is published. Raises UserError for `numerics.compiled`.
    """

    OPTIONS = (*FORMULATIONS, DIFFUSERS)
    HARMLESS = tuple(FORMULATIONS)
    HYPOTHESES = tuple(
        Hypothesis(kind, said, partial(_change, change), parts=parts) for kind, said, change, parts in MISTAKES
    )

    def __init__(self, checkpoint: Checkpoint, numerics: Numerics) -> None:
        if numerics.compiled:
            raise UserError(
                "the eager reference does not compile",
                found="compiled = True",
                expected="compiled = False",
                do="compile the other implementation only; the reference computes as it reads",
            )
        device, dtype = numerics.device, numerics.dtype
        self._checkpoint = checkpoint
        config = checkpoint.geometry.transformer
        generation = _diffusers_form(config) if DIFFUSERS in numerics.options else generation_of(config)
        model = load_world_model(
            config, checkpoint.weights("transformer"), device=device, dtype=dtype, generation=generation
        )
        if generation.half_heads:
            heads = [module for module in model.modules() if isinstance(module, ConditioningHead)]
            for layer, (attention, _) in half_biases(checkpoint.files["transformer"], config).items():
                heads[layer].attention_bias = attention.to(device, dtype)
        for option, reformulate in FORMULATIONS.items():
            if option in numerics.options:
                reformulate(model)
        self._generation = generation
        self._autoencoder_dtype = self._generation.autoencoder_dtype or dtype
        autoencoder = self._generation.load_autoencoder(
            checkpoint.geometry.autoencoder,
            checkpoint.weights("vae"),
            device=device,
            dtype=self._autoencoder_dtype,
        )
        self._session = Session(model, autoencoder, device=device, dtype=dtype)

    def describe(self) -> dict[str, str]:
        """What else identifies a run of the reference."""
        return {
            "reproduces": self._generation.sources,
            "attention": "explicit softmax over the visible tokens",
            "autoencoder": str(self._autoencoder_dtype).removeprefix("torch."),
            **self._generation.claims,
        }

    def sites(self) -> Mapping[str, Site]:
        """Every site that this checkpoint's model has. A block without a part does not have that part's sites."""
        geometry = self._checkpoint.geometry
        return matching_sites(self._session, geometry) | matching_sites(self._session.model, geometry)

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session: clock 0, nothing written."""
        return self._session.start(prompt, sigmas)

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame."""
        return self._session.append_image(image)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame."""
        return self._session.generate(noise, controls)

    def component(self, name: str) -> Callable[[int, Pass, Mapping[str, Tensor]], None] | None:
        """Begin anew with the transformer or the vae alone: see harness.run.component."""
        return self._session.component(name)


def _diffusers_form(config: TransformerConfig) -> Generation:
    """The other numerics of Waypoint 1.5. Raises UserError for Waypoint 1."""
    if not config.is_waypoint_15:
        raise UserError(
            "Waypoint 1 has no other numerics in its form for diffusers",
            found=f"eager+{DIFFUSERS} on a checkpoint of {config.model_type}",
            expected="a checkpoint of waypoint-1.5",
            do=f"leave +{DIFFUSERS} out",
        )
    return DIFFUSERS_FORM
