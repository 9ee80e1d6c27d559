"""The order of names where nothing tells the order of execution."""

import re


def natural(name: str) -> list[tuple[int, int, str]]:
    """Something to sort names by: numbers by their size."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts)]


def inner_first(name: str) -> list[list[tuple[int, int, str]]]:
    """Something to sort names of modules by: like `natural`, and each module behind those that it is made of."""
    return [*(natural(part) for part in name.split(".")), [(2, 0, "")]]
