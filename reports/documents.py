"""The documents of a finished parity run, beside its summary."""

from pathlib import Path

from waypoint_parity.harness.files import replacing
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.junit import junit_xml
from waypoint_parity.reports.report import write_report
from waypoint_parity.reports.summary import summary_markdown


def write_documents(summary: Summary, out: Path) -> None:
    """Write summary.md, junit.xml, report.html and report.md into the folder of the run that `summary` is of."""
    for name, text in (("summary.md", summary_markdown(summary)), ("junit.xml", junit_xml(summary))):
        with replacing(out / name) as partial:
            partial.write_text(text, "utf-8")
    write_report(out)
