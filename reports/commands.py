"""The commands that go on from a cell of a report, as a shell reads them."""

import shlex

from waypoint_parity.harness.judge.judgement import AS_REFERENCE
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.run import SCENARIO_NAME, CellReport


def commands(cell: CellReport, summary: Summary) -> dict[str, str]:
    """By what they do: run the cell again, and search its causes where it diverges; none without its scenario."""
    if not (cell.folder / SCENARIO_NAME).is_file():
        return {}
    found = {"Reproduce": _parity(cell, summary)}
    if cell.comparison.first is not None and cell.comparison.reason is None:
        found["Search the cause" if cell.blame is None else "Search further"] = _blame(cell, summary)
    return found


def _parity(cell: CellReport, summary: Summary) -> str:
    """The cell alone, under the rules of its sweep."""
    words = ["parity", "--as-recorded", *_inputs(cell, summary)]
    words += ["--no-exact"] if cell.identity.get("exact") == "False" else []
    words += ["--teacher-forced"] if cell.forced is not None else []
    words += ["--allow-observer-effect"] if cell.identity.get("observer effect allowed") == "True" else []
    return shlex.join(["waypoint-parity", *words, "--no-blame", "--out", str(cell.folder / "again")])


def _blame(cell: CellReport, summary: Summary) -> str:
    return shlex.join(["waypoint-parity", "blame", *_inputs(cell, summary), "--out", str(cell.folder / "blame")])


def _inputs(cell: CellReport, summary: Summary) -> list[str]:
    """What is compared, how it computes, and what may differ on purpose."""
    identity, bounds = cell.identity, cell.comparison.bounds
    numerics = cell.manifests["reference"].numerics if "reference" in cell.manifests else summary.numerics
    words = ["--reference", cell.comparison.reference, "--candidate", cell.comparison.candidate]
    words += ["--checkpoint", summary.checkpoint, "--scenario", str(cell.folder / SCENARIO_NAME)]
    words += ["--dtype", numerics.get("dtype", "fp32"), "--device", numerics.get("device", "cpu")]
    words += ["--threads", identity["threads"]] if identity.get("threads", "1") != "1" else []
    compiled = [side for side, of in cell.manifests.items() if of.numerics.get("compiled") == "true"]
    words += ["--compiled", *compiled] if compiled else []
    for option, name in (("--accept-inputs", "accepted inputs"), ("--allow-missing", "allowed missing")):
        words += [option, *identity[name].split(", ")] if identity.get(name) else []
    precision = identity.get("allowed precision", AS_REFERENCE)
    words += ["--precision", precision] if precision != AS_REFERENCE else []
    return words + (["--tolerance", str(bounds["activations"])] if bounds.get("reason") == "--tolerance" else [])
