"""Changes that must not matter: an implementation driven so that it computes the same mathematics otherwise.

The noise floor is what they do to the numbers. Each wraps an adapter and is one itself.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.processes import computing_on
from waypoint_parity.harness.run import registry
from waypoint_parity.harness.run.adapter import Adapter, Controls, Numerics, Pass, Prompt, Site
from waypoint_parity.harness.run.keys import is_input

NOISE_JITTER = 1e-7
# Relative, in unit roundoffs of fp32: as much as two orders of summing a product differ by, here (cond_head of the
# golden checkpoint, candidate against eager: 2.3e-7).
SUMMATION = 4 * 2.0**-24
EVERYTHING = "everything at once"


class Driven:
    """An adapter that drives another one; what it does not change it hands on."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def describe(self) -> dict[str, str]:
        """What else identifies the run."""
        return self._adapter.describe()

    def sites(self) -> Mapping[str, Site]:
        """The sites of the driven adapter."""
        return self._adapter.sites()

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session."""
        return self._adapter.start(prompt, sigmas)

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame."""
        return self._adapter.append_image(image)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame."""
        return self._adapter.generate(noise, controls)


class OtherThreadCount(Driven):
    """On one thread where the process has several, else on two."""

    def start(self, prompt: Prompt | None, sigmas: Tensor) -> Iterator[Pass]:
        """Begin a session."""
        return self._on_other_threads(super().start(prompt, sigmas))

    def append_image(self, image: Tensor) -> Iterator[Pass]:
        """Give a frame."""
        return self._on_other_threads(super().append_image(image))

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame."""
        return self._on_other_threads(super().generate(noise, controls))

    def _on_other_threads(self, passes: Iterator[Pass]) -> Iterator[Pass]:
        while True:
            # A pass runs while its iterator is advanced to the next one.
            with computing_on(1 if torch.get_num_threads() > 1 else 2):
                at = next(passes, None)
            if at is None:
                return
            yield at


class JitteredNoise(Driven):
    """Start noise off by a relative NOISE_JITTER (one standard deviation)."""

    def __init__(self, adapter: Adapter, seed: int = 0) -> None:
        super().__init__(adapter)
        self._draw = torch.Generator().manual_seed(seed)

    def generate(self, noise: Tensor, controls: Controls) -> Iterator[Pass]:
        """Generate a frame."""
        jitter = torch.randn(noise.shape, generator=self._draw)
        return super().generate(noise * (1 + NOISE_JITTER * jitter), controls)


class RoundedOtherwise(Driven):
    """Every site summed in another order and rounded once more, at random: Monte Carlo arithmetic (Parker 1997).

    Of all changes the only one that reaches every site; it needs nothing of the implementation but its sites.
    """

    def __init__(self, adapter: Adapter, seed: int = 0) -> None:
        super().__init__(adapter)
        self._draw = torch.Generator().manual_seed(seed)
        for name, site in adapter.sites().items():
            # Inputs are given, and what the caches hold has been rounded where it was made.
            if site.layout is None and not is_input(name) and not name.startswith("kv_cache."):
                site.module.register_forward_hook(self._round)

    def _round(self, module: nn.Module, inputs: object, output: object) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        summed = 1 + SUMMATION * torch.randn(output.shape, generator=self._draw)
        # Within half a unit in the last place or so: rounding then picks either neighbour.
        rounded = 1 + torch.finfo(output.dtype).eps * (torch.rand(output.shape, generator=self._draw) - 0.5)
        return (output.float() * (summed * rounded).to(output.device)).to(output.dtype)


def harmless_options(implementation: str) -> tuple[str, ...]:
    """The options of an implementation that must not matter: its adapter class names them in an attribute HARMLESS."""
    options: tuple[str, ...] = getattr(registry.find(registry.split_options(implementation)[0]), "HARMLESS", ())
    return options


def harmless(implementation: str, checkpoint: Checkpoint, numerics: Numerics) -> dict[str, Callable[[], Adapter]]:
    """What loads `implementation` under each change that must not matter, by the change's name; EVERYTHING is last."""

    def loaded(*options: str) -> Adapter:
        return registry.load("+".join([implementation, *options]), checkpoint, numerics)

    options = harmless_options(implementation)
    return {
        **{option: partial(loaded, option) for option in options},
        "thread count": lambda: OtherThreadCount(loaded()),
        "noise jitter": lambda: JitteredNoise(loaded()),
        "rounding": lambda: RoundedOtherwise(loaded()),
        EVERYTHING: lambda: OtherThreadCount(JitteredNoise(RoundedOtherwise(loaded(*options)))),
    }
