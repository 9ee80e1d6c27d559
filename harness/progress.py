"""Progress on a terminal: bars that are silent elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from tqdm import tqdm


class Named(Protocol):
    """What a bar can show."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...


Item = TypeVar("Item", bound=Named)


def progress(items: Sequence[Item]) -> Iterator[Item]:
    """`items`, with a bar on a terminal."""
    bar = tqdm(items, unit="run", disable=None)
    for item in bar:
        bar.set_postfix_str(item.name)
        yield item


def silent(name: str) -> None:
    """Takes the names of runs where nobody watches."""


@contextmanager
def counter(total: int | None = None, unit: str = "run") -> Iterator[Callable[[str], None]]:
    """Takes the names of runs one after another, of `total` where that is known; shown on a terminal."""
    with tqdm(unit=unit, total=total, disable=None) as bar:

        def announce(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        yield announce
