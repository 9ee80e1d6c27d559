"""What a mistake is that the reference can be made to make; and the ways to one."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from torch import nn

from waypoint_parity.reference.eager.session import Session


class Mistake(NamedTuple):
    """`kind` of fault, what is `said` to be changed, the change; `parts` that it shows in, if not those of its kind.

    The kinds are those of harness.families.waypoint.kinds.
    """

    kind: str
    said: str
    change: Callable[[Session], None]
    parts: tuple[str, ...] = ()


Kind = TypeVar("Kind", bound=nn.Module)


def modules(session: Session, kind: type[Kind]) -> Iterator[Kind]:
    """The modules of a kind, in the model."""
    return (module for module in session.model.modules() if isinstance(module, kind))
