"""The page that a pair of sessions is steered from."""

from waypoint_parity.harness.families.waypoint.play.stage import PageFacts
from waypoint_parity.reports.page import rendered

# A mouse that moves by so many pixels between two frames turns by 1.
PIXELS = 200


def play_page(seen: PageFacts, token: str) -> str:
    """The page as HTML; `token`: what its requests carry."""
    data = {"token": token, "keys": seen.keys, "pixels": PIXELS}
    return rendered("play.html.j2", script="play.js", style="play.css", seen=seen, data=data)
