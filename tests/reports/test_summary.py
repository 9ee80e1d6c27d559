import re

import msgspec
import pandas as pd
import pytest

from harness.comparison import TEACHER_FORCED, Comparison, FrameGrowth, RingFault, Verdict
from harness.ledger import Ledger, incomparable
from harness.metrics import FrameMetrics
from harness.parity import SUMMARY_SCHEMA, Summary
from reports.summary import markdown_table, summary_markdown, summary_table
from tests.harness.observations import JUDGEMENT, SAME, key, off_by

FRAMES = [
    FrameMetrics(frame=0, ssim=1.0, mean_abs=0.0, max_abs=0, psnr=None),
    FrameMetrics(frame=1, ssim=0.9991, mean_abs=0.25, max_abs=3, psnr=41.5),
]


def comparison(error: float, frames: list[FrameMetrics] = FRAMES) -> Comparison:
    ledger = Ledger(JUDGEMENT)
    ledger.pair(0, key("patchify"), SAME)
    ledger.pair(1, key("transformer.blocks.2", frame=4), off_by(error))
    return ledger.close("eager", "candidate", evidence="tensors", expected=2, frames=frames)


UNFIT = incomparable("eager", "candidate", "input.noise differs", bounds=JUDGEMENT.bounds, evidence="tensors")


@pytest.fixture
def summary() -> Summary:
    return Summary(
        schema=SUMMARY_SCHEMA,
        reference="eager",
        candidate="candidate",
        numerics={"dtype": "fp32", "device": "cpu", "compiled": "false"},
        checkpoint="fixtures/golden/base",
        checkpoint_digest="0123456789abcdef",
        seconds=61.4,
        variants={"walk_seed11": comparison(7e-7), "walk_seed12": comparison(0.02), "photograph": UNFIT},
    )


def row(text: str, variant: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {variant} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def cells(line: str) -> int:
    """How many cells a Markdown reader sees: a bar that is not escaped ends one."""
    return len(re.findall(r"(?<!\\)\|", line)) - 1


def test_a_variant_that_passes_names_its_worst_site(summary: Summary) -> None:
    found = row(summary_table(summary), "walk_seed11")
    assert found == [
        "walk_seed11", "WITHIN_NOISE", "none", "7.0e-07", "transformer.blocks.2 (f4 denoise0)", "", "2/2",
        "0.999100", "0.2500",
    ]  # fmt: skip


def test_a_variant_that_fails_names_the_first_site_that_diverges(summary: Summary) -> None:
    found = row(summary_table(summary), "walk_seed12")
    assert found[1:3] == ["DIVERGED", "transformer.blocks.2 (f4 denoise0)"]


def test_a_variant_that_cannot_be_compared_says_why_and_has_no_score(summary: Summary) -> None:
    assert row(summary_table(summary), "photograph")[1:] == [
        "INCOMPARABLE",
        "input.noise differs",
        "",
        "",
        "",
        "0/0",
        "",
        "",
    ]


def test_the_document_begins_with_the_verdict_and_the_identity_of_the_run(summary: Summary) -> None:
    text = summary_markdown(summary)
    assert text.startswith("# Parity: INCOMPARABLE\n")
    assert "`candidate` against `eager` on `fixtures/golden/base` (digest 0123456789ab), fp32 on cpu" in text
    assert "3 variants in 61 s" in text
    passing = msgspec.structs.replace(summary, variants={"walk_seed11": comparison(7e-7)})
    assert summary_markdown(passing).startswith(f"# Parity: {Verdict.WITHIN_NOISE}\n")


def test_every_variant_has_a_section_with_its_frames(summary: Summary) -> None:
    text = summary_markdown(summary)
    sections = text.split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == list(summary.variants)
    assert [cell.strip() for cell in sections[0].splitlines()[-1].strip("|").split("|")] == [
        "1", "0.999100", "0.2500", "3", "41.5"
    ]  # fmt: skip
    assert "equal" in sections[0]
    assert "no score is given" in sections[2]


def with_growth(*errors: float) -> Comparison:
    growth = [FrameGrowth(frame=frame, rel_l2=error, tolerance=1e-5) for frame, error in enumerate(errors)]
    return msgspec.structs.replace(comparison(7e-7), growth=growth)


def test_the_error_of_every_frame_is_told_of_either_rollout_and_how_far_it_stays_within_noise(
    summary: Summary,
) -> None:
    free = {"walk": with_growth(1e-7, 4e-5)}
    forced = {"walk": msgspec.structs.replace(with_growth(1e-7, 2e-7), rollout=TEACHER_FORCED)}
    both = msgspec.structs.replace(summary, variants=free, teacher_forced=forced)
    found = dict(zip(row(summary_table(both), "variant"), row(summary_table(both), "walk"), strict=True))
    assert (found["horizon"], found["teacher-forced"]) == ("frame 1", "WITHIN_NOISE, first none")
    assert found["its horizon"] == "none"
    assert row(summary_markdown(both).split("\n## ")[1], "1 ")[1:] == ["4.0e-05", "1.0e-05", "2.0e-07"]
    alone = msgspec.structs.replace(both, teacher_forced={})
    assert "teacher-forced" not in summary_markdown(alone)


def test_the_first_wrong_slot_and_the_horizon_have_a_line_of_their_own(summary: Summary) -> None:
    fault = RingFault(layer=4, frame=9, phase="denoise", step=0, slot=1, message="global layer 4, frame 9: slot 1 ...")
    wrong = msgspec.structs.replace(with_growth(1e-7, 4e-5), ring=[fault, fault])
    text = summary_markdown(msgspec.structs.replace(summary, variants={"walk": wrong}))
    assert text.count("first wrong slot: global layer 4, frame 9: slot 1 ...\n") == 1
    assert "horizon:          frame 1," in text


def test_a_variant_is_as_good_as_its_worse_rollout(summary: Summary) -> None:
    diverged = msgspec.structs.replace(with_growth(0.02), verdict=Verdict.DIVERGED)
    both = msgspec.structs.replace(summary, variants={"walk": with_growth(1e-7)}, teacher_forced={"walk": diverged})
    assert row(summary_table(both), "walk")[1] == both.verdict == Verdict.DIVERGED
    other = msgspec.structs.replace(both, variants=both.teacher_forced, teacher_forced=both.variants)
    assert other.verdict is Verdict.DIVERGED


def test_a_comparison_without_frames_has_no_table_of_frames(summary: Summary) -> None:
    bare = msgspec.structs.replace(summary, variants={"walk": comparison(7e-7, frames=[])})
    assert "SSIM" not in summary_markdown(bare).split("\n## ")[1]


def test_every_row_of_a_table_has_the_cells_of_its_head(summary: Summary) -> None:
    tables = [line for line in summary_markdown(summary).splitlines() if line.startswith("|")]
    heads = [number for number, line in enumerate(tables) if number == 0 or "SSIM " in line or "frame" in line]
    width = 0
    for number, line in enumerate(tables):
        width = cells(line) if number in heads else width
        assert cells(line) == width, line


def test_a_table_lines_up_as_plain_text() -> None:
    table = markdown_table(pd.DataFrame({"site": ["patchify", "latent"], "error": ["1e-7", "none at all"]}))
    assert table.splitlines() == [
        "| site     | error       |",
        "| -------- | ----------- |",
        "| patchify | 1e-7        |",
        "| latent   | none at all |",
    ]
