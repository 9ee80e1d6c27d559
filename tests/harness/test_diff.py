from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.comparison import Verdict
from harness.diff import Match, align, diff
from harness.errors import UserError
from harness.judgement import Judgement
from harness.keys import Key
from harness.records import Record, frame_path, read_records
from tests.harness.observations import JUDGEMENT, key, normal, write_dump

FRAME = Key(0, "decode", 0, "frame")
BLOCKS = [key(f"transformer.blocks.{block}") for block in range(5)]


def pixels(height: int = 360, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (height, 640, 3), dtype=torch.uint8, generator=generator)


def session(**changed: Tensor) -> list[tuple[Key, Tensor]]:
    """An input, five blocks and a frame; `changed` gives other values by site, dots written as underscores."""
    seen = [(key("input.noise"), normal(8, seed=99)), *((at, normal(64, seed=at_)) for at_, at in enumerate(BLOCKS))]
    seen.append((FRAME, pixels()))
    return [(at, changed.get(at.site.replace(".", "_"), tensor)) for at, tensor in seen]


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_dump(tmp_path / "reference", session())


def records(folder: Path, order: list[Key]) -> list[Record]:
    """Records of the given keys, in that order."""
    return list(read_records(write_dump(folder, [(at, normal(4)) for at in order])))


def aligned(tmp_path: Path, candidate: list[Key], reference: list[Key]) -> list[Match]:
    return list(align(iter(records(tmp_path / "c", candidate)), iter(records(tmp_path / "r", reference))))


def test_records_in_one_order_are_matched_one_by_one(tmp_path: Path) -> None:
    matches = aligned(tmp_path, BLOCKS, BLOCKS)
    assert [match.order for match in matches] == list(range(5))
    assert all(match.candidate is not None and match.reference is not None for match in matches)


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [1, 0, 3, 2, 4], [4, 0, 1, 2, 3], [1, 2, 3, 4, 0]], ids=str)
def test_records_in_another_order_find_their_partners_and_keep_the_references_place(
    tmp_path: Path, order: list[int]
) -> None:
    matches = aligned(tmp_path, [BLOCKS[place] for place in order], BLOCKS)
    assert len(matches) == 5
    for place, candidate, reference in matches:
        assert candidate is not None
        assert reference is not None
        assert candidate.key == reference.key == BLOCKS[place]


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_a_record_that_one_side_lacks_comes_without_a_partner(tmp_path: Path, absent: int) -> None:
    fewer = [at for at in BLOCKS if at != BLOCKS[absent]]
    without_candidate = [match for match in aligned(tmp_path, fewer, BLOCKS) if match.candidate is None]
    assert [(match.order, match.reference and match.reference.key) for match in without_candidate] == [
        (absent, BLOCKS[absent])
    ]
    without_reference = [match for match in aligned(tmp_path, BLOCKS, fewer) if match.reference is None]
    assert [match.candidate and match.candidate.key for match in without_reference] == [BLOCKS[absent]]


def test_sides_without_a_common_record_are_not_matched_at_all(tmp_path: Path) -> None:
    matches = aligned(tmp_path, BLOCKS[:2], BLOCKS[2:])
    assert len(matches) == 5
    assert not any(match.candidate and match.reference for match in matches)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    """Of two records of one key, one would be compared and the other forgotten."""
    with pytest.raises(UserError, match="twice"):
        aligned(tmp_path, [BLOCKS[0], BLOCKS[1], BLOCKS[1]], BLOCKS[::-1])


def test_a_dump_is_identical_to_itself(reference: Path) -> None:
    comparison = diff(reference, reference)
    assert comparison.verdict is Verdict.IDENTICAL
    assert (comparison.compared, comparison.expected) == (7, 7)
    assert [frame.ssim for frame in comparison.frames] == [1.0]


def test_the_first_site_in_execution_order_that_diverges_is_named(reference: Path, tmp_path: Path) -> None:
    changed = {f"transformer_blocks_{block}": normal(64, seed=block) * (1 + block) for block in (2, 3, 4)}
    candidate = write_dump(tmp_path / "candidate", session(**changed)[::-1], implementation="candidate")
    comparison = diff(reference, candidate)
    assert comparison.verdict is Verdict.DIVERGED
    assert comparison.first is not None
    assert comparison.first.site == "transformer.blocks.2"
    assert (comparison.reference, comparison.candidate, comparison.evidence) == ("eager", "candidate", "sketches")
    assert comparison.counts == {Verdict.IDENTICAL: 4, Verdict.DIVERGED: 3}


def test_noise_below_the_tolerance_passes(reference: Path, tmp_path: Path) -> None:
    candidate = write_dump(tmp_path / "candidate", session(transformer_blocks_3=normal(64, seed=3) * (1 + 1e-6)))
    assert diff(reference, candidate).verdict is Verdict.WITHIN_NOISE


def test_the_tolerance_is_that_of_the_dtype_else_the_one_given(reference: Path, tmp_path: Path) -> None:
    changed = session(transformer_blocks_3=normal(64, seed=3) * 1.01)
    assert not diff(reference, write_dump(tmp_path / "fp32", changed))
    bf16 = {"numerics": {"dtype": "bf16"}}
    assert diff(write_dump(tmp_path / "r16", session(), **bf16), write_dump(tmp_path / "c16", changed, **bf16))
    strict = write_dump(tmp_path / "c16", changed, **bf16)
    assert not diff(tmp_path / "r16", strict, JUDGEMENT)


@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_a_site_that_one_side_lacks_is_never_a_pass(reference: Path, tmp_path: Path, side: str) -> None:
    fewer = write_dump(tmp_path / "fewer", [seen for seen in session() if seen[0] != BLOCKS[3]])
    comparison = diff(reference, fewer) if side == "candidate" else diff(fewer, reference)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert comparison.first.note == f"the {side} has no record of it"


def test_a_site_may_be_missing_by_name_but_not_in_one_pass_alone(tmp_path: Path) -> None:
    judgement = Judgement(JUDGEMENT.tolerance, allowed_missing=("out_norm",))
    both = [(key("patchify"), normal(4)), (key("out_norm"), normal(4)), (key("out_norm", frame=1), normal(4))]
    reference = write_dump(tmp_path / "reference", both)
    assert diff(reference, write_dump(tmp_path / "never", both[:1]), judgement)
    assert not diff(reference, write_dump(tmp_path / "once", both[:2]), judgement)


def test_another_input_makes_the_runs_incomparable(reference: Path, tmp_path: Path) -> None:
    candidate = write_dump(tmp_path / "candidate", session(input_noise=normal(8, seed=100)))
    comparison = diff(reference, candidate)
    assert comparison.verdict is Verdict.INCOMPARABLE
    assert comparison.reason == "input.noise differs at frame 0, denoise step 0"
    accepted = Judgement(JUDGEMENT.tolerance, accepted_inputs=("noise",))
    assert diff(reference, candidate, accepted)


def test_a_broken_contract_makes_the_runs_incomparable(reference: Path, tmp_path: Path) -> None:
    candidate = write_dump(tmp_path / "candidate", session(), checkpoint_digest="another")
    comparison = diff(reference, candidate)
    assert comparison.verdict is Verdict.INCOMPARABLE
    assert comparison.reason is not None
    assert comparison.reason.startswith("checkpoint differs")


def test_frames_of_another_size_diverge_and_have_no_metrics(reference: Path, tmp_path: Path) -> None:
    comparison = diff(reference, write_dump(tmp_path / "candidate", session(frame=pixels(height=352))))
    assert comparison.verdict is Verdict.DIVERGED
    assert comparison.first is not None
    assert comparison.first.note == "shape [352, 640, 3], not [360, 640, 3]"
    assert comparison.frames == []


def test_a_frame_that_diverges_shows_in_its_metrics(reference: Path, tmp_path: Path) -> None:
    comparison = diff(reference, write_dump(tmp_path / "candidate", session(frame=pixels(seed=1))))
    assert comparison.first is not None
    assert comparison.first.site == "frame"
    assert comparison.frames[0].ssim < 0.1


def test_a_frame_that_is_no_image_is_refused(reference: Path, tmp_path: Path) -> None:
    candidate = write_dump(tmp_path / "candidate", session())
    frame_path(candidate, 0).write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"000000\.png"):
        diff(reference, candidate)
