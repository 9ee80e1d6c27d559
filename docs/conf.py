"""How the pages become a site: `nox -s docs`.

The pages are plain Markdown that a code host shows as well. Only what is generated has pages with directives, in
docs/site.
"""

import argparse
import warnings
from contextlib import redirect_stdout
from importlib.metadata import version as version_of
from io import StringIO
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

project = "waypoint-parity"
version = release = version_of(project)
copyright = "the waypoint-parity authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
# Indented blocks of the pages are commands.
highlight_language = "sh"
# Docstrings mark code as Markdown does.
default_role = "code"
# Names of torch, NumPy and of ours that no page describes.
nitpick_ignore_regex = [("py:.*", ".*")]
autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False


class Commands(SphinxDirective):
    """Every command with its options, read off the parser of the command line."""

    def run(self) -> list[nodes.Node]:
        """A section for each command."""
        import tyro

        from waypoint_parity.harness.cli import main

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            parser = tyro.extras.get_parser(main.any_command(), prog=project)
        return [
            node
            for command in commands_below(parser)
            for node in self.parse_text_to_nodes(told(command), allow_section_headings=True)
        ]


def commands_below(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The commands that take options of their own, in the order in which they are declared."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            return [command for child in action.choices.values() for command in commands_below(child)]
    return [parser]


def told(command: argparse.ArgumentParser) -> str:
    """A command as reStructuredText: what it does, an example, and its options by group."""
    name = command.prog.removeprefix(f"{project} ")
    lines = [name, "-" * len(name), ""]
    for paragraph in (command.description or "").split("\n\n"):
        before, example, after = paragraph.partition("Example: ")
        lines += ["::", "", f"    {' '.join(after.split())}", ""] if example and not before else [paragraph, ""]
    for group in command._action_groups:
        actions = [action for action in group._group_actions if action.help and action.dest != "help"]
        lines += ([f".. rubric:: {group.title}", ""] if actions else []) + ([group.description or "", ""])
        for action in actions:
            takes = str(action.metavar or "").removeprefix("{None}|")
            names = ", ".join(action.option_strings) or action.dest.rpartition(".")[2].split()[0]
            head = f"{names} {takes}".rstrip()
            lines += [
                f"``{head}``",
                *(f"   {line}" for line in (action.help or "").replace("@", r"\@").splitlines()),
                "",
            ]
    return "\n".join(lines)


class Schema(SphinxDirective):
    """The JSON schema of a file, as `waypoint-parity schema` prints it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The schema as a block of JSON."""
        from waypoint_parity.harness.cli.format import SchemaCommand

        with redirect_stdout(StringIO()) as printed:
            SchemaCommand(of=self.arguments[0]).run()
        return [nodes.literal_block("", printed.getvalue(), language="json")]


class Outside(SphinxPostTransform):
    """Links to what is in the repository and neither a page nor a file to copy: its name is left."""

    default_priority = 8  # just before MyST looks for the target

    def run(self, **_: Any) -> None:
        """Replace such links by their text."""
        for link in list(self.document.findall(pending_xref)):
            if link["reftype"] != "myst":
                continue
            beside = Path(self.env.doc2path(link["refdoc"])).parent
            page = link.get("refdomain") == "doc"
            if link["reftarget"] not in self.env.found_docs if page else (beside / link["reftarget"]).is_dir():
                link.replace_self(link.children)


def is_field_of_tuple(app: Sphinx, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, which their signature shows: Python describes them by number."""
    return True if type(value).__name__ == "_tuplegetter" else None


def from_markdown(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Make code blocks of fences; leave out the docstring of the package itself, whose page has an introduction."""
    given, within = list(lines), False
    lines.clear()
    for line in [] if (what, name) == ("module", "waypoint_parity") else given:
        if line.strip().startswith("```"):
            within = not within
            lines += ["", line.replace("```", ".. code-block:: "), ""] if within else [""]
        else:
            lines.append(f"    {line}" if within else line)


def setup(app: Sphinx) -> None:
    """Register what is defined here."""
    app.connect("autodoc-skip-member", is_field_of_tuple)
    app.connect("autodoc-process-docstring", from_markdown, priority=400)  # before napoleon
    app.add_directive("commands", Commands)
    app.add_directive("schema", Schema)
    app.add_post_transform(Outside)
