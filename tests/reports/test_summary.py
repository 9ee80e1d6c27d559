import re

import msgspec
import pandas as pd
import pytest

from tests.reports.summaries import UNFIT, answered, comparison, summary_of
from waypoint_parity.harness.judge.comparison import TEACHER_FORCED, Comparison, LatentError, Verdict
from waypoint_parity.harness.sweep.summary import Summary
from waypoint_parity.reports.markdown import escaped, markdown_table
from waypoint_parity.reports.summary import summary_table


@pytest.fixture
def summary() -> Summary:
    return summary_of({"walk_seed11": comparison(7e-7), "walk_seed12": comparison(0.02), "photograph": UNFIT})


def row(text: str, variant: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {variant} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def cells(line: str) -> int:
    """How many cells a Markdown reader sees: a bar that is not escaped ends one."""
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_a_variant_that_passes_names_its_worst_site(summary: Summary) -> None:
    found = row(summary_table(summary), "walk_seed11")
    assert found == [
        "walk_seed11", "WITHIN_NOISE", "none", "7.0e-07", "transformer.blocks.2 (u4 denoise0)", "2/2",
        "0.999100", "0.2500",
    ]  # fmt: skip


def test_a_variant_that_fails_names_the_first_site_that_diverges(summary: Summary) -> None:
    found = row(summary_table(summary), "walk_seed12")
    assert found[1:3] == ["DIVERGED", "transformer.blocks.2 (u4 denoise0)"]


def test_a_variant_that_cannot_be_compared_says_why_and_has_no_score(summary: Summary) -> None:
    assert row(summary_table(summary), "photograph")[1:] == [
        "INCOMPARABLE",
        "input.noise differs",
        "",
        "",
        "0/0",
        "",
        "",
    ]


def cell_of(summary: Summary, variant: str, column: str) -> str:
    text = summary_table(summary)
    return dict(zip(row(text, "variant"), row(text, variant), strict=True))[column]


@pytest.mark.parametrize(
    ("of", "verdict", "mathematics", "precision"),
    [
        (answered(2e-14, 0.25), "WITHIN_NOISE", "same, 2.0e-14", "0.50 of bound"),
        (answered(1e-3, 0.25), "DIVERGED (mathematics)", "1.0e-03 apart", "0.50 of bound"),
        (answered(1e-3, 24.0), "DIVERGED (mathematics)", "1.0e-03 apart", "24 x bound"),
        (answered(2e-14, 24.0), "DIVERGED (precision)", "same, 2.0e-14", "24 x bound"),
        (answered(2e-14, 1.5, gains=["one"]), "DIVERGED (precision)", "same, 2.0e-14", "1.5 x bound"),
    ],
    ids=str,
)
def test_the_two_questions_stand_where_the_worst_site_does(
    of: Comparison, verdict: str, mathematics: str, precision: str
) -> None:
    asked = summary_of({"walk": of})
    assert cell_of(asked, "walk", "verdict") == verdict
    assert (cell_of(asked, "walk", "mathematics"), cell_of(asked, "walk", "precision")) == (mathematics, precision)
    table = summary_table(asked)
    assert "worst site error" not in table
    before = msgspec.structs.replace(of, mathematics=None, precision=None)
    assert cells(table.splitlines()[0]) < 9
    assert len(table.splitlines()[0]) <= len(summary_table(summary_of({"walk": before})).splitlines()[0])


def test_few_exact_values_are_counted() -> None:
    of = answered(2e-14, 24.0)
    few = msgspec.structs.replace(of, compared=30)
    assert cell_of(summary_of({"walk": few}), "walk", "mathematics") == "same at 2 of 30, 2.0e-14"
    assert of.mathematics is not None
    lost = msgspec.structs.replace(of, mathematics=msgspec.structs.replace(of.mathematics, lost=1, lost_sites=1))
    assert cell_of(summary_of({"walk": lost}), "walk", "mathematics") == "same at 2 of 3, 2.0e-14"


def test_the_first_site_of_other_mathematics_is_named_where_another_diverges_before_it() -> None:
    of = answered(1e-3, 0.25)
    (failure,) = of.failures
    before = msgspec.structs.replace(failure, order=0, site="patchify", exact=1e-16, local=7.0)
    both = msgspec.structs.replace(of, first=before, failures=[before, failure])
    assert cell_of(summary_of({"walk": both}), "walk", "mathematics") == "from transformer.blocks.2"


def test_a_cell_that_was_asked_nothing_has_no_answer_beside_one_that_was() -> None:
    mixed = summary_of({"walk": answered(2e-14, 0.25), "photograph": UNFIT})
    assert cell_of(mixed, "photograph", "mathematics") == cell_of(mixed, "photograph", "precision") == ""


def with_growth(*errors: float) -> Comparison:
    growth = [LatentError(unit=unit, rel_l2=error, tolerance=1e-5) for unit, error in enumerate(errors)]
    return msgspec.structs.replace(comparison(7e-7), growth=growth)


def diverged(of: Comparison) -> Comparison:
    return msgspec.structs.replace(of, verdict=Verdict.DIVERGED)


def test_the_error_of_every_frame_is_told_of_either_rollout_and_how_far_it_stays_within_noise(
    summary: Summary,
) -> None:
    free = {"walk": diverged(with_growth(1e-7, 4e-5))}
    forced = {"walk": msgspec.structs.replace(with_growth(1e-7, 2e-7), rollout=TEACHER_FORCED)}
    both = msgspec.structs.replace(summary, variants=free, teacher_forced=forced)
    found = dict(zip(row(summary_table(both), "variant"), row(summary_table(both), "walk"), strict=True))
    assert (found["horizon"], found["teacher-forced"]) == ("frame 1", "WITHIN_NOISE, first none")
    assert "its horizon" not in found
    swapped = msgspec.structs.replace(both, variants=forced, teacher_forced=free)
    assert cell_of(swapped, "walk", "its horizon") == "frame 1"
    with pytest.raises(KeyError):
        cell_of(swapped, "walk", "horizon")
    assert "teacher-forced" not in summary_table(msgspec.structs.replace(both, teacher_forced={}))


def test_a_variant_is_as_good_as_its_worse_rollout(summary: Summary) -> None:
    forced = {"walk": diverged(with_growth(0.02))}
    both = msgspec.structs.replace(summary, variants={"walk": with_growth(1e-7)}, teacher_forced=forced)
    assert row(summary_table(both), "walk")[1] == both.verdict == Verdict.DIVERGED
    other = msgspec.structs.replace(both, variants=both.teacher_forced, teacher_forced=both.variants)
    assert other.verdict is Verdict.DIVERGED


def test_text_stays_in_its_cell_and_is_no_html() -> None:
    assert escaped("a | b\n <script>") == r"a \| b &lt;script&gt;"


def test_a_table_lines_up_as_plain_text() -> None:
    table = markdown_table(pd.DataFrame({"site": ["patchify", "latent"], "error": ["1e-7", "none at all"]}))
    assert table.splitlines() == [
        "| site     | error       |",
        "| -------- | ----------- |",
        "| patchify | 1e-7        |",
        "| latent   | none at all |",
    ]
