"""Markdown tables that also line up as plain text."""

import html

import pandas as pd


def markdown_table(frame: pd.DataFrame) -> str:
    """A Markdown table whose columns are padded to line up as plain text; every cell is a string already."""
    widths = [max(map(len, [str(column), *frame[column]])) for column in frame.columns]
    lines = [list(frame.columns), ["-" * width for width in widths], *frame.itertuples(index=False)]
    return "\n".join(
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def escaped(text: str) -> str:
    """`text` for a cell of a Markdown table, and harmless as HTML, which Markdown lets through."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
