"""Templates, rendered into pages that need nothing from elsewhere and run the one script that is theirs."""

import base64
import hashlib
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from waypoint_parity.reports.markdown import escaped


def rendered(template: str, *, script: str, style: str, **context: Any) -> str:
    """`template` with its context, a script and a style sheet, all by their names in reports/templates.

    The template gets the text of both, and `allowed`: the digest of the script for a content security policy.
    """
    environment = Environment(
        loader=PackageLoader("waypoint_parity.reports"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": Markup, "escaped": escaped, "breakable": _breakable}
    loader = environment.loader
    assert loader is not None
    code, look = (loader.get_source(environment, name)[0] for name in (script, style))
    allowed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    page = environment.get_template(template)
    return page.render(**context, script=Markup(code), style=Markup(look), allowed=allowed)


def _breakable(name: str) -> Markup:
    """A name whose lines break at its own joints."""
    return Markup(re.sub("([/:_])", r"\1<wbr>", str(escape(name))))
