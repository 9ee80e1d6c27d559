"""The documents of a finished parity run, beside its summary."""

from pathlib import Path

from waypoint_parity.harness.files import replacing, writing
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.junit import junit_xml
from waypoint_parity.reports.report import write_report

_JUNIT = "junit.xml"


def remove_documents(out: Path) -> None:
    """Remove what an earlier run wrote into a folder: where the next one ends midway, nothing is to speak for it."""
    for name in ("summary.md", _JUNIT, "report.html", "report.md"):
        with writing(out / name):
            (out / name).unlink(missing_ok=True)


def write_documents(summary: Summary, out: Path) -> None:
    """Write summary.md, junit.xml, report.html and report.md into the folder of the run that `summary` is of."""
    with replacing(out / _JUNIT) as partial:
        partial.write_text(junit_xml(summary), "utf-8")
    write_report(out)
