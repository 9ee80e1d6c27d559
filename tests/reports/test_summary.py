import re

import msgspec
import pandas as pd
import pytest

from tests.reports.summaries import UNFIT, answered, comparison, summary_of
from waypoint_parity.harness.judge.comparison import TEACHER_FORCED, Comparison, LatentError, Verdict
from waypoint_parity.harness.record.records import PictureAt
from waypoint_parity.harness.run.family import SlotFault
from waypoint_parity.harness.sweep.summary import CellFailure, Effects, LevelEffect, Summary
from waypoint_parity.reports.markdown import escaped, markdown_table
from waypoint_parity.reports.summary import BUDGET, summary_markdown, summary_table

WHERE = "comparison.json of each has them."


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


def test_nothing_is_said_of_noise_where_the_verdict_passes_by_exact_values() -> None:
    growth = [LatentError(unit=0, rel_l2=4e-5, tolerance=1e-5)]
    passing = msgspec.structs.replace(answered(2e-14, 0.25), growth=growth)
    text = summary_markdown(summary_of({"walk": passing}))
    assert "| 0     | 4.0e-05      |" in text
    assert "horizon" not in text
    assert "of noise" not in text
    failing = summary_markdown(summary_of({"walk": msgspec.structs.replace(answered(1e-3, 0.25), growth=growth)}))
    assert "horizon:          unit 0" in failing
    assert "of noise, at most" in failing


def test_the_document_begins_with_the_verdict_and_the_identity_of_the_run(summary: Summary) -> None:
    text = summary_markdown(summary)
    assert text.startswith("# Parity: INCOMPARABLE\n")
    assert "`candidate` against `eager` on `fixtures/golden/base` (digest 0123456789ab), fp32 on cpu" in text
    assert "3 variants in 61 s" in text
    passing = msgspec.structs.replace(summary, variants={"walk_seed11": comparison(7e-7)})
    assert summary_markdown(passing).startswith(f"# Parity: {Verdict.WITHIN_NOISE}\n")


def test_every_variant_has_a_section_with_its_pictures_and_what_diverged_comes_first(summary: Summary) -> None:
    text = summary_markdown(summary)
    sections = text.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == ["walk_seed12", "photograph", "walk_seed11"]
    assert [cell.strip() for cell in sections[0].splitlines()[-1].strip("|").split("|")] == [
        "1", "0.999100", "0.2500", "3", "41.5"
    ]  # fmt: skip
    assert "equal" in sections[0]
    assert "no score is given" in sections[1]


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
    assert row(summary_markdown(both).split("\n## ")[1], "1 ")[1:] == ["4.0e-05", "1.0e-05", "2.0e-07"]
    alone = msgspec.structs.replace(both, teacher_forced={})
    assert "teacher-forced" not in summary_markdown(alone)


def test_the_first_wrong_slot_and_the_horizon_have_a_line_of_their_own(summary: Summary) -> None:
    fault = SlotFault(
        cache="kv_cache.layers.4",
        unit=9,
        phase="denoise",
        step=0,
        slot=1,
        message="global layer 4, frame 9: slot 1 ...",
    )
    wrong = msgspec.structs.replace(diverged(with_growth(1e-7, 4e-5)), slots=[fault, fault])
    text = summary_markdown(msgspec.structs.replace(summary, variants={"walk": wrong}))
    assert text.count("first wrong slot: global layer 4, frame 9: slot 1 ...\n") == 1
    assert "horizon:          unit 1," in text


def test_a_variant_is_as_good_as_its_worse_rollout(summary: Summary) -> None:
    forced = {"walk": diverged(with_growth(0.02))}
    both = msgspec.structs.replace(summary, variants={"walk": with_growth(1e-7)}, teacher_forced=forced)
    assert row(summary_table(both), "walk")[1] == both.verdict == Verdict.DIVERGED
    other = msgspec.structs.replace(both, variants=both.teacher_forced, teacher_forced=both.variants)
    assert other.verdict is Verdict.DIVERGED


def test_a_comparison_without_pictures_has_no_table_of_them(summary: Summary) -> None:
    bare = msgspec.structs.replace(summary, variants={"walk": comparison(7e-7, pictures=[])})
    assert "SSIM" not in summary_markdown(bare).split("\n## ")[1]


def test_every_row_of_a_table_has_the_cells_of_its_head(summary: Summary) -> None:
    tables = [line for line in summary_markdown(summary).splitlines() if line.startswith("|")]
    heads = [number for number, line in enumerate(tables) if number == 0 or "SSIM " in line or "frame" in line]
    width = 0
    for number, line in enumerate(tables):
        width = cells(line) if number in heads else width
        assert cells(line) == width, line


def test_what_failed_to_run_is_told_in_the_title_and_with_its_message(summary: Summary) -> None:
    failure = CellFailure(name="walk_seed13", factors={}, message="no room\n  found:    a | b\n", traceback="at <home>")
    text = summary_markdown(msgspec.structs.replace(summary, failures=[failure]))
    assert text.startswith("# Parity: INCOMPARABLE, 1 failed to run\n")
    assert r"| walk_seed13   | no room found: a \| b |" in text
    assert "at <home>" not in text
    nothing = summary_of({}, failures=[failure])
    assert "walk_seed13" in summary_markdown(nothing)


def test_what_the_factors_decide_is_told_before_the_cells(summary: Summary) -> None:
    effects = Effects(
        factors={"seed": ["11", "12"], "schedule": ["checkpoint"]},
        levels=[
            LevelEffect(factor="seed", level="11", cells=1, failing=0, excess=0.07),
            LevelEffect(factor="seed", level="12", cells=1, failing=1, excess=2000.0),
            LevelEffect(factor="schedule", level="checkpoint", cells=2, failing=1, excess=None),
        ],
        combinations=[],
        sentences=["diverges only with seed 12, at every schedule"],
    )
    text = summary_markdown(msgspec.structs.replace(summary, effects=effects))
    assert text.index("- diverges only with seed 12, at every schedule") < text.index("| seed ") < text.index("| walk_")
    assert row(text, "seed  ") == ["seed", "11", "0/1", "0.07"]
    assert "| schedule" not in text


def test_why_no_cause_was_searched_is_told(summary: Summary) -> None:
    text = summary_markdown(msgspec.structs.replace(summary, not_blamed="the inputs differ"))
    assert "No cause was searched: the inputs differ\n" in text


@pytest.fixture(scope="module")
def long() -> Comparison:
    """A comparison of two hundred pictures, whose details take about 18 KiB."""
    pictures = [msgspec.structs.replace(comparison(7e-7).pictures[1], at=PictureAt(unit)) for unit in range(200)]
    return msgspec.structs.replace(comparison(7e-7, pictures), reference="eager of \N{SNOWMAN}")


def test_a_large_run_has_its_whole_table_and_the_details_for_which_there_is_room_the_worst_first(
    long: Comparison,
) -> None:
    cells = {f"seed{number:02}": long for number in range(80)}
    cells["seed50"] = msgspec.structs.replace(long, verdict=Verdict.DIVERGED)
    text = summary_markdown(summary_of(cells))
    assert 0.95 * BUDGET < len(text.encode()) <= BUDGET == 900 * 1024
    assert all(f"| {name} " in text for name in cells)
    sections = [section.splitlines()[0] for section in text.split("\n## ")[1:]]
    assert sections[:3] == ["seed50", "seed00", "seed01"]
    left = len(cells) - len(sections)
    assert left > 0
    assert text.endswith(f"The details of {left} variants are left out here for their size; {WHERE}\n")


def test_no_budget_is_exceeded_by_a_byte_whatever_the_alphabet(long: Comparison) -> None:
    foreign = msgspec.structs.replace(long, reference="\N{SNOWMAN}" * 2000)
    summary = summary_of({f"\N{SNOWMAN}{number}": foreign for number in range(3)})
    whole = len(summary_markdown(summary).encode())
    for budget in (900, 1500, *range(whole // 3, whole, 1000)):
        text = summary_markdown(summary, budget=budget)
        assert len(text.encode()) <= budget
        assert "for its size" in text or "for their size" in text


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
