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
from waypoint_parity.harness.run.adapter import Adapter, Numerics, Pass, Site
from waypoint_parity.harness.run.family import family_named
from waypoint_parity.harness.run.scenario import Scenario
from waypoint_parity.harness.run.sites import Kind, SiteTable

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

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session."""
        return self._adapter.session(scenario)


class OtherThreadCount(Driven):
    """On one thread where the process has several, else on two."""

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session."""
        passes = super().session(scenario)
        while True:
            # A pass runs while its iterator is advanced to the next one.
            with computing_on(1 if torch.get_num_threads() > 1 else 2):
                announced = next(passes, None)
            if announced is None:
                return
            yield announced


class JitteredNoise(Driven):
    """Start noise off by a relative NOISE_JITTER (one standard deviation)."""

    def __init__(self, adapter: Adapter, seed: int = 0) -> None:
        super().__init__(adapter)
        self._draw = torch.Generator().manual_seed(seed)

    def session(self, scenario: Scenario) -> Iterator[tuple[int, Pass]]:
        """Run a session."""
        drawn = {
            name: scenario.get(name) for name, field in family_named(scenario.family).fields.items() if field.drawn
        }
        jittered = {
            name: noise * (1 + NOISE_JITTER * torch.randn(noise.shape, generator=self._draw))
            for name, noise in drawn.items()
            if noise is not None
        }
        return super().session(scenario.with_tensors(**jittered))


class RoundedOtherwise(Driven):
    """Every site summed in another order and rounded once more, at random: Monte Carlo arithmetic (Parker 1997).

    Of all changes the only one that reaches every site; it needs nothing of the implementation but its sites.
    """

    def __init__(self, adapter: Adapter, table: SiteTable, seed: int = 0) -> None:
        super().__init__(adapter)
        self._draw = torch.Generator().manual_seed(seed)
        for name, site in adapter.sites().items():
            # Inputs are given, and what the caches hold has been rounded where it was made.
            if site.layout is None and table.kind(name) not in (Kind.INPUT, Kind.CACHE, Kind.MASK):
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

    options, table = harmless_options(implementation), checkpoint.family.sites
    return {
        **{option: partial(loaded, option) for option in options},
        "thread count": lambda: OtherThreadCount(loaded()),
        "noise jitter": lambda: JitteredNoise(loaded()),
        "rounding": lambda: RoundedOtherwise(loaded(), table),
        EVERYTHING: lambda: OtherThreadCount(JitteredNoise(RoundedOtherwise(loaded(*options), table))),
    }
