"""What every session of a reference refuses, in one wording."""

from torch import Tensor

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.scenario import Prompt


def check_prompt(prompt: Prompt | None, wanted: str | None) -> None:
    """Raise UserError where a prompt comes to a model that takes none, or none to one that has `wanted` one."""
    if (prompt is None) != (wanted is None):
        raise UserError(
            "the prompt does not fit the model",
            found="no prompt" if prompt is None else f"a prompt of shape {list(prompt.embedding.shape)}",
            expected=f"none (prompt_conditioning is {wanted!r})" if wanted is None else f"one, for {wanted!r}",
            do="take a scenario that was recorded for this checkpoint",
        )


def running_schedule(sigmas: Tensor | None, clock: int, longest: int | None) -> Tensor:
    """The `sigmas` [S+1] of a session at frame `clock`. Raises UserError before `start` and past the last frame.

    `longest`: how many frames a session may have; None for any number.
    """
    if sigmas is None or (longest is not None and clock >= longest):
        raise UserError(
            "the session cannot take another frame",
            found="a session that was not started" if sigmas is None else f"frame {clock}",
            expected="a started session"
            + (f", and frames 0 to {longest - 1} (n_frames)" if longest is not None else ""),
            do="run start() to its end and begin a new session",
        )
    return sigmas
