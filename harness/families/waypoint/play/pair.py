"""A pair of sessions that go on frame by frame, as somebody steers them."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.draws import draw_noise
from waypoint_parity.harness.families.waypoint.play.player import Player, Request, Role, Shown, T
from waypoint_parity.harness.families.waypoint.play.process import PlayerProcess, shares_of_cores
from waypoint_parity.harness.families.waypoint.scenario import Controls, check
from waypoint_parity.harness.run.scenario import Scenario


class Pair:
    """Reference and candidate, given the same noise and the same controls, each in a process of its own.

    Noise is drawn frame by frame, seeded with `seed` + frame (the policy "per-frame").
    """

    def __init__(self, reference: Role, candidate: Role, scenario: Scenario) -> None:
        """`scenario` gives prompt, schedule and seed image. Raises UserError where it does not fit."""
        geometry = reference.checkpoint.geometry
        self._config = geometry.transformer
        check(scenario, geometry)
        roles = (reference, candidate)
        shares = shares_of_cores(len(roles), max(role.threads for role in roles))
        self._players = [PlayerProcess(role, cores) for role, cores in zip(roles, shares, strict=True)]
        self._scenario = scenario
        self._seed = scenario.seed
        self._given: list[tuple[Tensor, Controls]] = []
        self._attached = ExitStack()

    def __enter__(self) -> Self:
        """Load both, and begin. Raises UserError for an implementation that cannot be used, else PlayerError."""
        with ExitStack() as attached:
            for player in self._players:
                attached.enter_context(player)
            for player in self._players:
                # Called before either is waited for: they end at the same time, as they load.
                attached.callback(player.dismiss)
            self._answers()
            self.restart(self._seed)
            self._attached = attached.pop_all()
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
        self._both(partial(Player.start, scenario=self._scenario))

    def step(self, controls: Controls) -> tuple[Shown, Shown]:
        """The next frame of both. Raises PlayerError where an implementation fails, or its process is gone."""
        noise = draw_noise(self._config.latent_shape, 1, self._seed + self.frames, "per-frame")[0]
        self._given.append((noise, controls))
        return self._both(partial(Player.step, noise=noise, controls=controls))

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
        walked = self._scenario.with_tensors(
            noise=torch.stack(noise),
            button=torch.stack([each.button for each in controls]),
            mouse=torch.stack([each.mouse for each in controls]),
            scroll=torch.stack([each.scroll for each in controls]),
        )
        # Another walk than the rendered one, whose seed is no label of it.
        labels = {"noise_policy": "per-frame"}
        return replace(walked, name="walked", seed=self._seed, units=len(noise), labels=labels)

    def _both(self, request: Request[T]) -> tuple[T, T]:
        for player in self._players:
            player.ask(request)
        return self._answers()

    def _answers(self) -> tuple[Any, Any]:
        # Of both, before either's error is raised: one left behind would be taken for the next request's.
        answers = [player.answer() for player in self._players]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers[0], answers[1]


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
