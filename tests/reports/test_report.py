"""The report's files: what they say, and that they say it of the run alone."""

import html
import re
import shlex
import shutil
from pathlib import Path

import pytest
import tyro
from msgspec.structs import replace as replaced
from PIL import Image

from tests.reports.conftest import FRAMES
from waypoint_parity.harness.cli.blame import BlameCommand
from waypoint_parity.harness.cli.parity import ParityCommand
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.explain.blame.result import read_blame
from waypoint_parity.harness.explain.investigation.result import INVESTIGATION_NAME
from waypoint_parity.harness.judge.comparison import (
    COMPARISON_NAME,
    PRECISION,
    TEACHER_FORCED,
    Comparison,
    Verdict,
    read_comparison,
)
from waypoint_parity.harness.record.records import to_json
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, CellFailure, Summary, read_summary
from waypoint_parity.reports.report import write_report

MOST_BYTES = 15_000_000


@pytest.fixture(scope="module")
def page(diverged: Path) -> str:
    return (diverged / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def twin(diverged: Path) -> str:
    return (diverged / "report.md").read_text("utf-8")


def summary_of(run: Path) -> Summary:
    return read_summary(run / SUMMARY_NAME)


def failing(run: Path) -> Comparison:
    """The comparison of the cell that diverges, from its own file."""
    folders = [run / cell.folder for cell in summary_of(run).cells.values()]
    (found,) = (each for each in (read_comparison(at / COMPARISON_NAME) for at in folders) if not each)
    return found


def values(page: str, table: str) -> dict[str, str]:
    """The value behind every number of the first row of a table, by its column, and the text of the other cells.

    Of the tables that every variant has the first one that there is.
    """
    found = re.search(rf'<table id="{table}(?:-[0-9]+)?">.*?<tbody>\s*<tr>(.*?)</tr>', page, re.DOTALL)
    assert found is not None, table
    cells = re.findall(r'<td data-quantity="([^"]*)"(?: data-value="([^"]*)")?[^>]*>(.*?)</td>', found[1])
    return {name: value or html.unescape(text) for name, value, text in cells}


def test_the_first_divergence_is_that_of_the_comparison_number_for_number(page: str, diverged: Path) -> None:
    first = failing(diverged).first
    assert first is not None
    shown = values(page, "first-divergence")
    assert (shown["site"], shown["phase"]) == (first.site, first.phase)
    for name in ("unit", "step", "order", "rel_l2", "tolerance", "cosine", "norm_ratio", "max_abs"):
        assert float(shown[name]) == getattr(first, name), name


def test_the_pictures_stand_before_the_cause_and_both_before_everything_else(page: str, twin: str) -> None:
    order = [
        "verdict",
        "variant",
        "seen",
        "cause",
        "variants",
        "pictures",
        "ladder",
        "caches",
        "trajectory",
        "contract",
    ]
    places = [page.index(f'id="{name}"') for name in [*order, "suspects", "cell"]]
    assert places == sorted(places)
    lead = page.index('class="lead"')
    assert page.index('id="variant"') < lead < page.index('id="seen"')
    marks = [
        "kv_cache.layers.1.visible",
        "report-worst.webp",
        "waypoint-parity parity",
        "First divergence",
        "## Variants",
    ]
    places = [twin.index(mark) for mark in marks]
    assert places == sorted(places)
    assert values(page, "causes")["cause"].startswith("cache")


def leads(page: str) -> list[str]:
    """The sentence on every variant."""
    return [html.unescape(lead) for lead in re.findall(r'<p class="lead">(.*?)</p>', page)]


def test_one_sentence_tells_the_cause_its_share_and_where_it_is_wrong_first(diverged: Path, page: str) -> None:
    wrong = [lead for lead in leads(page) if "kv_cache.layers.1.visible" in lead]
    assert len(wrong) == 1
    (blame,) = (read_blame(each) for each in diverged.glob("cells/*/blame/blame.json"))
    assert blame.causes[0].name in wrong[0]
    assert blame.causes[0].necessity is not None
    assert f"{100 * (blame.causes[0].necessity.mean_abs or 0):.0f}%" in wrong[0]


def test_a_contradiction_is_said_once(diverged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(diverged, run)
    summary, said = summary_of(run), ["the dump was changed", "state outlives a session"]
    variants = {
        name: replaced(each, contradictions=said if not each else []) for name, each in summary.variants.items()
    }
    (run / SUMMARY_NAME).write_bytes(to_json(replaced(summary, variants=variants)))
    page = write_report(run).read_text("utf-8")
    for text in (page, (run / "report.md").read_text("utf-8"), (run / "summary.md").read_text("utf-8")):
        assert [text.count(each) for each in said] == [1, 1]


def test_what_is_proven_of_a_cause_is_told(diverged: Path, page: str, twin: str) -> None:
    (blame,) = (read_blame(path) for path in diverged.glob("cells/*/blame/blame.json"))
    proofs = [proof for cause in blame.causes for proof in cause.proofs]
    assert proofs
    for proof in proofs:
        assert str(proof) in html.unescape(page)
        assert proof.statement in twin.replace("\\", "")


def test_the_commands_run_as_they_stand(diverged: Path, page: str) -> None:
    found = [html.unescape(each) for each in re.findall(r'class="command"><pre>(.*?)</pre>', page)]
    assert len(found) == 3
    for command in found:
        program, verb, *arguments = shlex.split(command)
        assert program == "waypoint-parity"
        tyro.cli({"parity": ParityCommand, "blame": BlameCommand}[verb], args=arguments)
    (search,) = (shlex.split(each) for each in found if " blame " in each)
    assert Path(search[-1]) == diverged


def test_the_error_of_every_latent_is_told_of_either_rollout(by_values: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(by_values, run)
    ((name, comparison),) = summary_of(run).variants.items()
    fed = replaced(comparison, rollout=TEACHER_FORCED, growth=[replaced(at, rel_l2=0.125) for at in comparison.growth])
    (run / SUMMARY_NAME).write_bytes(to_json(replaced(summary_of(run), teacher_forced={name: fed})))
    shown = values(write_report(run).read_text("utf-8"), "growth")
    assert float(shown["latent error"]) == comparison.growth[0].rel_l2
    assert float(shown[TEACHER_FORCED]) == 0.125
    # It says nothing of a run that passes.
    assert "of noise, at most" not in shown
    failing = replaced(comparison, verdict=Verdict.DIVERGED)
    (run / SUMMARY_NAME).write_bytes(to_json(replaced(summary_of(run), variants={name: failing})))
    shown = values(write_report(run).read_text("utf-8"), "growth")
    assert float(shown["of noise, at most"]) == comparison.growth[0].tolerance


def test_a_summary_is_one_screen_with_the_worst_picture_and_the_worst_variants(diverged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(diverged, run)
    summary = summary_of(run)
    (wrong,), (right,) = (
        [name for name, each in summary.variants.items() if bool(each) is holds] for holds in (False, True)
    )
    names = {f"right-{number:02}": right for number in range(30)} | {"last": wrong}
    many = replaced(
        summary,
        cells={name: summary.cells[of] for name, of in names.items()},
        variants={name: summary.variants[of] for name, of in names.items()},
    )
    (run / SUMMARY_NAME).write_bytes(to_json(many))
    write_report(run)
    text = (run / "summary.md").read_text("utf-8")
    assert text.startswith("# Parity: DIVERGED\n")
    # What a pull request's comment may have is 65,536 characters.
    assert len(text) < 10_000
    assert len(text.splitlines()) < 60
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 20
    assert rows[0].startswith("| last ")
    assert "11 more variants" in text
    strip = re.search(r"\(<([^>]*\.webp)>\)", text)
    assert strip is not None
    with Image.open(run / strip[1]) as picture:
        assert picture.width == 3 * 640
    assert "](<report.html>)" in text


def test_every_picture_has_the_numbers_of_the_comparison(page: str, diverged: Path) -> None:
    number = list(summary_of(diverged).variants.values()).index(failing(diverged))
    rows = re.search(rf'<table id="pictures-{number}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert rows is not None
    for name, attribute in (("SSIM", "ssim"), ("mean |d|", "mean_abs"), ("PSNR dB", "psnr"), ("max |d|", "max_abs")):
        shown = re.findall(rf'data-quantity="{re.escape(name)}" data-value="([^"]*)"', rows[1])
        expected = [getattr(picture, attribute) for picture in failing(diverged).pictures]
        assert [float(value) for value in shown] == [value for value in expected if value is not None]


def test_the_ladder_has_every_site_in_the_order_of_execution(page: str, diverged: Path) -> None:
    number = list(summary_of(diverged).variants.values()).index(failing(diverged))
    body = re.search(rf'<table id="ladder-{number}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body is not None
    assert re.findall(r'data-quantity="site"[^>]*>(.*?)<', body[1]) == [at.site for at in failing(diverged).sites]
    first = failing(diverged).first
    assert first is not None
    assert re.findall(r'data-quantity="site" class="first">(.*?)<', body[1]) == [first.site]


def test_a_wrong_slot_is_marked_on_the_candidate_s_side_alone(page: str, diverged: Path) -> None:
    fault = failing(diverged).slots[0]
    marked = re.findall(rf'<td data-quantity="slot {fault.slot}" class="bad">', page)
    assert marked
    sides = page[page.index('id="caches"') : page.index('id="trajectory"')].split("<h3>")
    assert [side for side in sides if 'class="bad"' in side] == [side for side in sides if side.startswith("candidate")]
    assert html.escape(fault.message, quote=False) in page


def test_what_a_name_holds_is_text(holding: Path, tmp_path: Path) -> None:
    hostile = "walk <img src=x onerror=alert(1)> & {{ 7 * 7 }} | </script>"
    ((_, cell),), ((_, comparison),) = (
        each.items() for each in (summary_of(holding).cells, summary_of(holding).variants)
    )
    summary = replaced(
        summary_of(holding),
        candidates=[hostile],
        cells={hostile: replaced(cell, folder=str(holding / cell.folder))},
        variants={hostile: replaced(comparison, notes=[hostile], candidate=f"```\n{hostile}")},
        failures=[CellFailure(name=hostile, factors={}, message=hostile)],
    )
    (tmp_path / SUMMARY_NAME).write_bytes(to_json(summary))
    page = write_report(tmp_path).read_text("utf-8")
    twin = (tmp_path / "report.md").read_text("utf-8")
    assert "<img" not in page.replace("<img id=", "")
    assert page.count("</script>") == 2
    assert "{{ 7 * 7 }}" in page
    assert html.escape(hostile) in page
    prose = re.sub(r"```text.*?\n```", "", twin, flags=re.DOTALL)
    assert "onerror" in prose
    assert "<img" not in prose


def test_the_page_refers_to_nothing_outside_but_the_exact_pictures(page: str, diverged: Path) -> None:
    assert re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', page) == []
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page
    links = set(re.findall(r'"(?:reference|candidate)":\s*"([^"]*\.png)"', page))
    assert len(links) == 2 * 2 * FRAMES
    assert all((diverged / link).is_file() for link in links)
    assert (diverged / "report.html").stat().st_size < MOST_BYTES


def test_a_page_elsewhere_gets_copies_of_the_exact_pictures(diverged: Path, tmp_path: Path) -> None:
    page = write_report(diverged, tmp_path / "elsewhere" / "page.html")
    links = set(re.findall(r'"(?:reference|candidate)":\s*"([^"]*\.png)"', page.read_text("utf-8")))
    assert links
    for link in links:
        assert (page.parent / link).resolve().is_relative_to(tmp_path)
        assert (page.parent / link).is_file()
    assert page.with_suffix(".md").is_file()


def test_a_run_that_holds_by_values_says_how_close_it_came(by_values: Path) -> None:
    page, twin = ((by_values / name).read_text("utf-8") for name in ("report.html", "report.md"))
    (comparison,) = summary_of(by_values).variants.values()
    share = max(at.distance / at.tolerance for at in comparison.sites if at.tolerance)
    assert share < 1
    for text in (leads(page)[0], twin):
        assert f"with {100 * share:.1f} % of it" in text
    assert 'id="first-divergence' not in page
    assert "over bound" in page[page.index('id="ladder-0"') :]
    assert "exact distance" not in page


def test_a_run_that_holds_says_so_of_both_questions_with_their_figures(holding: Path) -> None:
    page, twin = ((holding / name).read_text("utf-8") for name in ("report.html", "report.md"))
    (comparison,) = summary_of(holding).variants.values()
    assert comparison.mathematics is not None
    assert comparison.precision is not None
    known = f"known of {comparison.mathematics.observations} of {comparison.compared} observations"
    apart = f"{known}, are at most {comparison.mathematics.worst:.1e} apart"
    largest = f"{comparison.precision.worst:.2f} of its bound, at {comparison.precision.at}"
    for said in (apart, largest):
        assert page.count(said) == twin.count(said) == 1
    shown = values(page, "variants")
    assert float(shown["mathematics"]) == comparison.mathematics.worst
    assert float(shown["precision"]) == comparison.precision.worst
    assert "worst site" not in shown


def test_the_ladder_has_the_exact_distance_and_the_error_by_itself_of_every_site(page: str, diverged: Path) -> None:
    number = list(summary_of(diverged).variants.values()).index(failing(diverged))
    body = re.search(rf'<table id="ladder-{number}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert body is not None
    for name, attribute in (("exact distance", "exact"), ("by itself, over bound", "local")):
        shown = re.findall(rf'data-quantity="{name}" data-value="([^"]*)"', body[1])
        expected = [getattr(rung, attribute) for rung in failing(diverged).sites]
        assert [float(value) for value in shown] == [value for value in expected if value is not None]
        assert shown
    # A mask is right or wrong; what follows from it is other mathematics.
    assert re.findall(r'data-quantity="by itself, over bound"[^>]*class="bad">(.*?)<', body[1]) == ["infinite"]
    wrong = re.findall(r'data-quantity="exact distance" data-value="([^"]*)" class="bad"', body[1])
    assert wrong
    assert all(float(value) > 1e-10 for value in wrong)


def test_a_run_that_diverges_says_which_question_it_fails(page: str, twin: str) -> None:
    assert "DIVERGED (mathematics)" in page
    assert "DIVERGED (mathematics)" in twin


def test_what_was_not_followed_is_listed_once(imprecise: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(imprecise, run)
    ((name, comparison),) = summary_of(run).variants.items()
    reasons = ["add was given [2] from nowhere", "fft does not run in fp64"]
    told = replaced(comparison, mathematics=replaced(comparison.mathematics, unfollowed={"candidate": reasons}))
    (run / SUMMARY_NAME).write_bytes(to_json(replaced(summary_of(run), variants={name: told})))
    page = write_report(run).read_text("utf-8")
    table = re.search(r'<table id="unanswered-0">.*?</table>', page, re.DOTALL)
    assert table is not None
    assert all(table[0].count(f"candidate: {reason}") == 1 for reason in reasons)
    assert all((run / "report.md").read_text("utf-8").count(f"candidate: {reason}") == 1 for reason in reasons)


def test_a_candidate_that_is_right_and_coarse_fails_its_precision_alone(imprecise: Path) -> None:
    page, table = (imprecise / "report.html").read_text("utf-8"), (imprecise / "summary.md").read_text("utf-8")
    (comparison,) = summary_of(imprecise).variants.values()
    assert comparison.question == PRECISION
    assert comparison.first is not None
    assert comparison.first.site == "velocity"
    assert "DIVERGED (precision)" in page
    assert "DIVERGED (precision)" in table
    shown = values(page, "first-divergence")
    assert float(shown["local"]) == comparison.first.local
    junit = (imprecise / "junit.xml").read_text("utf-8")
    assert f"first divergence: velocity at unit {comparison.first.unit}, denoise step 0: less precise than" in junit


def test_gains_and_what_was_not_judged_are_listed(imprecise: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(imprecise, run)
    ((name, comparison),) = summary_of(run).variants.items()
    precision = replaced(comparison.precision, gains=["too loud"], unjudged=["behind <fft>"])
    told = replaced(comparison, precision=precision)
    (run / SUMMARY_NAME).write_bytes(to_json(replaced(summary_of(run), variants={name: told})))
    page = write_report(run).read_text("utf-8")
    assert 'class="bad">too loud<' in page
    assert ">behind &lt;fft&gt;<" in page


def test_a_small_first_divergence_is_not_all_that_is_said(imprecise: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(imprecise, run)
    ((name, comparison),) = summary_of(run).variants.items()
    small = replaced(comparison.first, site="patchify", local=1.25, exact=None)
    told = replaced(comparison, first=small)
    (run / SUMMARY_NAME).write_bytes(to_json(replaced(summary_of(run), variants={name: told})))
    page = write_report(run).read_text("utf-8")
    said = "The first divergence is 1.25 times its bound, but velocity in denoise step 0 is "
    assert said in page[page.index('id="first-divergence-0"') : page.index('id="variants"')]
    assert said in (run / "report.md").read_text("utf-8")


def test_what_was_not_measured_is_said_and_the_report_goes_on(diverged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(diverged, run)
    for cell in summary_of(run).cells.values():
        shutil.rmtree(run / cell.folder / "blame", ignore_errors=True)
        (run / cell.folder / INVESTIGATION_NAME).write_text("{")
        shutil.rmtree(run / cell.folder / "reference")
    page = write_report(run).read_text("utf-8")
    assert "cannot be read as an investigation" in page
    assert "reference is not there" in page
    assert "waypoint-parity blame --cell" in page
    assert "the first ones: local layer 1" in page
    assert float(values(page, "first-divergence")["rel_l2"]) > 0


def test_without_a_blame_the_suspects_are_the_first_part_and_those_it_reads(unsearched: Path) -> None:
    page = (unsearched / "report.html").read_text("utf-8")
    named = re.findall(r"<h3>\d+\. (.*?)</h3>", page)
    assert named == ["cache (cache)", "input.clock (input)"]


def test_a_folder_without_a_summary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"summary\.json: cannot be read"):
        write_report(tmp_path)


def test_a_run_of_which_no_cell_ran_has_a_report_of_the_failures(holding: Path, tmp_path: Path) -> None:
    failure = CellFailure(name="lost", factors={}, message="no room left on the device")
    empty = replaced(summary_of(holding), cells={}, variants={}, failures=[failure], effects=None)
    (tmp_path / SUMMARY_NAME).write_bytes(to_json(empty))
    page = write_report(tmp_path).read_text("utf-8")
    assert "no room left on the device" in page
    assert "INCOMPARABLE" in page
