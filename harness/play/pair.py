"""A pair of sessions that go on frame by frame, as somebody steers them."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from harness.adapter import Adapter, Controls, Pass
from harness.blame.pictures import pictures_of
from harness.checkpoint import Checkpoint
from harness.errors import UserError
from harness.make_scenario import draw_noise
from harness.metrics import Pixels
from harness.scenario import Scenario
from harness.session import exact_arithmetic


@dataclass(frozen=True)
class Shown:
    """One frame of a side: its pixels [height,width,3] uint8, and the seconds that it took."""

    pixels: Pixels
    seconds: float


class Player:
    """One implementation in a session that somebody steers."""

    def __init__(self, name: str, adapter: Adapter, checkpoint: Checkpoint) -> None:
        """Raises UserError for an adapter without the site `frame`: there is nothing to see."""
        if "frame" not in adapter.sites():
            raise UserError(
                f"{name}: shows no frames",
                found="an adapter without the site `frame`",
                expected="the decoded frame [360,640,3] uint8 as a site",
                do="map it in the adapter's sites()",
            )
        self.name = name
        self._adapter = adapter
        self._config = checkpoint.transformer
        self._attached = ExitStack()
        self._pictures: list[Pixels] = []

    def __enter__(self) -> Self:
        self._pictures = self._attached.enter_context(pictures_of(self._adapter))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()

    @exact_arithmetic()
    def start(self, scenario: Scenario) -> None:
        """Begin a session with the prompt, the schedule and, where there is one, the image of `scenario`."""
        _exhaust(self._adapter.start(scenario.prompt, scenario.schedule(self._config)))
        if scenario.image is not None:
            _exhaust(self._adapter.append_image(scenario.image))

    @exact_arithmetic()
    def step(self, noise: Tensor, controls: Controls) -> Shown:
        """Generate a frame from `noise` [1,1,C,h*ph,w*pw]."""
        started = time.perf_counter()
        self._pictures.clear()
        _exhaust(self._adapter.generate(noise, controls))
        return Shown(self._pictures[-1], time.perf_counter() - started)


class Pair:
    """Reference and candidate, given the same noise and the same controls, each in a thread of its own.

    Noise is drawn frame by frame, seeded with `seed` + frame (the policy "per-frame").
    """

    def __init__(self, reference: Player, candidate: Player, checkpoint: Checkpoint, scenario: Scenario) -> None:
        """`scenario` gives prompt, schedule and seed image. Raises UserError where it does not fit."""
        scenario.check(checkpoint.transformer)
        self.reference, self.candidate = reference, candidate
        self._config = checkpoint.transformer
        self._scenario = scenario
        self._seed = scenario.seed
        self._given: list[tuple[Tensor, Controls]] = []
        self._threads = ThreadPoolExecutor(2)
        self._attached = ExitStack()

    def __enter__(self) -> Self:
        self._attached.callback(self._threads.shutdown)
        for player in (self.reference, self.candidate):
            self._attached.enter_context(player)
        self.restart(self._seed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attached.close()

    @property
    def frames(self) -> int:
        """How many frames have been generated."""
        return len(self._given)

    def restart(self, seed: int) -> None:
        """Begin again, with other noise."""
        self._seed = seed
        self._given.clear()
        list(self._threads.map(lambda player: player.start(self._scenario), (self.reference, self.candidate)))

    def step(self, controls: Controls) -> tuple[Shown, Shown]:
        """The next frame of both."""
        noise = draw_noise(self._config.latent_shape, 1, self._seed + self.frames, "per-frame")[0]
        self._given.append((noise, controls))
        reference, candidate = self._threads.map(
            lambda player: player.step(noise, controls), (self.reference, self.candidate)
        )
        return reference, candidate

    def recorded(self) -> Scenario:
        """What both were given since the session began, to be run again. Raises UserError before the first frame."""
        if not self._given:
            raise UserError(
                "there is nothing to keep",
                found="a session without a frame",
                expected="at least one",
                do="walk a step first",
            )
        noise, controls = zip(*self._given, strict=True)
        return replace(
            self._scenario,
            name="walked",
            seed=self._seed,
            noise_policy="per-frame",
            noise=torch.stack(noise),
            **{name: torch.stack([getattr(each, name) for each in controls]) for name in ("button", "mouse", "scroll")},
        )


def controls_of(given: Mapping[str, object], n_buttons: int) -> Controls:
    """Controls from a page: `buttons`, numbers of those that are down, and `mouse`, how far it moved right and down.

    Raises UserError for what are none.
    """
    buttons, mouse = given.get("buttons", []), given.get("mouse", [0, 0])
    moved = isinstance(mouse, list) and len(mouse) == 2 and all(isinstance(value, int | float) for value in mouse)
    if (
        not moved
        or not isinstance(buttons, list)
        or not all(type(number) is int and 0 <= number < n_buttons for number in buttons)
    ):
        raise UserError(
            "no controls",
            found=str(dict(given))[:200],
            expected=f"buttons from 0 to {n_buttons - 1}, and two numbers as mouse",
            do="correct what sends them",
        )
    button = torch.zeros(n_buttons)
    button[buttons] = 1.0
    return Controls(button, torch.tensor(mouse, dtype=torch.float32).clamp(-1, 1), torch.zeros(1))


def _exhaust(passes: Iterator[Pass]) -> None:
    for _ in passes:
        pass
