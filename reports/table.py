"""Tables: values with the text that shows them, for a page and for its Markdown twin."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from waypoint_parity.harness.judge.comparison import INFINITE
from waypoint_parity.reports.markdown import escaped, markdown_table

Format = Callable[[Any], str]
NOTHING = "-"


class TableCell(NamedTuple):
    """One cell of a table: its column, the text shown, the value behind it where it is a number, and its mark."""

    column: str
    text: str
    value: float | int | None
    mark: str


@dataclass(frozen=True)
class Table:
    """Rows of values. `formats` say how a column is shown, else as `str`; `marks` name the style of some cells.

    A None is shown as nothing.
    """

    frame: pd.DataFrame
    formats: Mapping[str, Format] = field(default_factory=dict)
    marks: Mapping[tuple[int, str], str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, Any]],
        formats: Mapping[str, Format] | None = None,
        marks: Mapping[tuple[int, str], str] | None = None,
    ) -> "Table":
        """A table of rows with the same columns; numbers stay as they are."""
        return cls(pd.DataFrame(list(rows), dtype=object), formats or {}, marks or {})

    @property
    def columns(self) -> list[str]:
        """The heads of the columns."""
        return [str(column) for column in self.frame.columns]

    @property
    def numbers(self) -> set[str]:
        """The columns that hold numbers."""
        return {entry.column for row in self.rows() for entry in row if entry.value is not None}

    def __bool__(self) -> bool:
        return not self.frame.empty

    def rows(self) -> Iterator[list[TableCell]]:
        """The entries, row by row."""
        for number, row in enumerate(self.frame.itertuples(index=False)):
            yield [self._entry(number, column, value) for column, value in zip(self.columns, row, strict=True)]

    def markdown(self) -> str:
        """The table as Markdown that lines up as plain text; whatever a cell holds, it stays in its cell."""
        texts = [[_emphasised(entry) for entry in row] for row in self.rows()]
        return markdown_table(pd.DataFrame(texts, columns=[escaped(column) for column in self.columns]))

    def _entry(self, row: int, column: str, value: Any) -> TableCell:
        missing = value is None or (isinstance(value, float) and math.isnan(value))
        text = NOTHING if missing else self.formats.get(column, str)(value)
        number = value if isinstance(value, int | float) and not isinstance(value, bool) and not missing else None
        return TableCell(column, text, number, self.marks.get((row, column), ""))


def _emphasised(entry: TableCell) -> str:
    text = escaped(entry.text)
    return f"**{text}**" if entry.mark else text


def scientific(value: float) -> str:
    """A relative error."""
    return "infinite" if value >= INFINITE else f"{value:.2e}"


def ratio(value: float) -> str:
    """A ratio to a bound."""
    return "infinite" if value >= INFINITE else f"{value:.2g}"


def percent(value: float) -> str:
    """A share, in whole percent, none of which is minus zero."""
    return f"{round(100 * value)}%"


def fixed(digits: int) -> Format:
    """A number with so many digits behind the point."""
    return lambda value: f"{value:.{digits}f}"
