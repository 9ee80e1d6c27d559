"""The page that a pair of sessions is steered from."""

from collections.abc import Mapping
from typing import Any

from waypoint_parity.reports.page import rendered

# A mouse that moves by so many pixels between two frames turns by 1.
PIXELS = 200


def play_page(seen: Mapping[str, Any], token: str) -> str:
    """The page as HTML; `token`: what its requests carry.

    `seen`: names of the reference, the candidate and the checkpoint, the seed, and what every one of `keys` gives.
    """
    data = {"token": token, "keys": seen["keys"], "pixels": PIXELS}
    return rendered("play.html.j2", script="play.js", style="play.css", seen=seen, data=data)
