"""The page that a pair of sessions is steered from."""

import base64
import hashlib

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.play.stage import Seen

# A mouse that moves by so many pixels between two frames turns by 1.
PIXELS = 200


def play_page(seen: Seen, token: str) -> str:
    """The page as HTML; `token`: what its requests carry."""
    environment = Environment(loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined)
    loader = environment.loader
    assert loader is not None
    script, style = (loader.get_source(environment, name)[0] for name in ("play.js", "play.css"))
    return environment.get_template("play.html.j2").render(
        seen=seen,
        data={"token": token, "keys": seen.keys, "pixels": PIXELS},
        script=Markup(script),
        style=Markup(style),
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
