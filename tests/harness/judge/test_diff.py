import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.harness.observations import JUDGEMENT, foreign, key, normal, write_dump
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.judge.comparison import Verdict
from waypoint_parity.harness.judge.diff import UNLIKE_SELECTIONS, diff
from waypoint_parity.harness.judge.judgement import Judgement
from waypoint_parity.harness.record.records import (
    MANIFEST_NAME,
    RECORDS_NAME,
    TENSORS_NAME,
    PassSites,
    PictureAt,
    picture_path,
    read_manifest,
    read_records,
)
from waypoint_parity.harness.record.selection import Selection
from waypoint_parity.harness.run.keys import Key

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


def test_a_dump_is_identical_to_itself(reference: Path) -> None:
    comparison = diff(reference, reference)
    assert comparison.verdict is Verdict.IDENTICAL
    assert (comparison.compared, comparison.expected) == (7, 7)
    assert [picture.ssim for picture in comparison.pictures] == [1.0]


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


def test_a_nan_that_moved_is_no_pass(tmp_path: Path) -> None:
    """Its count is the same, and so is the sketch, which leaves it out."""

    def dump(name: str, at: int) -> Path:
        values = torch.zeros(64)
        values[at] = torch.nan
        return write_dump(tmp_path / name, session(transformer_blocks_2=values))

    comparison = diff(dump("reference", 3), dump("candidate", 4))
    assert comparison.verdict is Verdict.DIVERGED
    assert comparison.counts == {Verdict.IDENTICAL: 6, Verdict.DIVERGED: 1}
    assert comparison.first is not None
    assert comparison.first.note is not None
    assert "whether they are in the same places" in comparison.first.note
    assert diff(dump("reference", 3), dump("candidate", 3)).verdict is Verdict.IDENTICAL


@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_a_site_that_one_side_lacks_is_never_a_pass(reference: Path, tmp_path: Path, side: str) -> None:
    fewer = write_dump(tmp_path / "fewer", [seen for seen in session() if seen[0] != BLOCKS[3]])
    comparison = diff(reference, fewer) if side == "candidate" else diff(fewer, reference)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert comparison.first.note == f"the {side} has no record of it"


def test_a_site_may_be_missing_by_name_but_not_in_one_pass_alone(tmp_path: Path) -> None:
    judgement = Judgement(JUDGEMENT.bounds, allowed_missing=("out_norm",))
    both = [(key("patchify"), normal(4)), (key("out_norm"), normal(4)), (key("out_norm", unit=1), normal(4))]
    reference = write_dump(tmp_path / "reference", both)
    assert diff(reference, write_dump(tmp_path / "never", both[:1]), judgement)
    assert not diff(reference, write_dump(tmp_path / "once", both[:2]), judgement)


def test_another_input_makes_the_runs_incomparable(reference: Path, tmp_path: Path) -> None:
    candidate = write_dump(tmp_path / "candidate", session(input_noise=normal(8, seed=100)))
    comparison = diff(reference, candidate)
    assert comparison.verdict is Verdict.INCOMPARABLE
    lines = f"{candidate / RECORDS_NAME}, line 1; {reference / RECORDS_NAME}, line 1"
    assert comparison.reason == f"input.noise differs at unit 0, denoise step 0 ({lines})"
    accepted = Judgement(JUDGEMENT.bounds, accepted_inputs=("noise",))
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
    assert comparison.pictures == []


def test_a_frame_that_diverges_shows_in_its_metrics(reference: Path, tmp_path: Path) -> None:
    comparison = diff(reference, write_dump(tmp_path / "candidate", session(frame=pixels(seed=1))))
    assert comparison.first is not None
    assert comparison.first.site == "frame"
    assert comparison.pictures[0].ssim < 0.1


def test_a_frame_that_is_no_image_is_refused(reference: Path, tmp_path: Path) -> None:
    candidate = write_dump(tmp_path / "candidate", session())
    picture_path(candidate, PictureAt(0)).write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"000000\.png"):
        diff(reference, candidate)


def test_dumps_of_different_selections_are_judged_where_both_recorded_and_say_so(tmp_path: Path) -> None:
    every = [(key("latent", unit), normal(8, seed=unit)) for unit in range(4)]
    passes = [PassSites("denoise", 0, [(0, 4)], ["latent"])]
    reference = write_dump(tmp_path / "reference", every, units=4, passes=passes)
    selected = {"units": 4, "passes": passes, "selection": Selection(every=2)}
    comparison = diff(reference, write_dump(tmp_path / "candidate", every[::2], **selected))
    assert comparison.verdict is Verdict.IDENTICAL
    assert (comparison.compared, comparison.expected) == (2, 2)
    assert comparison.notes == [UNLIKE_SELECTIONS]


def test_a_site_that_both_dumps_lack_is_never_a_pass(tmp_path: Path) -> None:
    session = {"units": 2, "passes": [PassSites("denoise", 0, [(0, 2)], ["patchify", "latent"])]}
    seen = [(key("patchify", unit), normal(8)) for unit in range(2)]
    sides = [write_dump(tmp_path / role, seen, **session) for role in ("reference", "candidate")]
    comparison = diff(*sides)
    assert comparison.verdict is Verdict.MISSING
    assert comparison.first is not None
    assert comparison.first.key == key("latent")
    assert diff(*sides, Judgement(JUDGEMENT.bounds, allowed_missing=("latent",)))


def test_inputs_that_the_manifests_alone_tell_apart_are_named(reference: Path, tmp_path: Path) -> None:
    sides = [
        write_dump(tmp_path / role, session(), inputs={"noise": "one", "scroll": digest})
        for role, digest in (("r", "one"), ("c", "another"))
    ]
    assert diff(*sides).reason == "scroll differs: candidate another, reference one"
    assert diff(*sides, Judgement(JUDGEMENT.bounds, accepted_inputs=("controls",)))


@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_a_picture_that_one_dump_does_not_keep_is_missing(tmp_path: Path, side: str) -> None:
    """Its record is there and equal: nothing else tells that there is nothing to look at."""
    for role in ("reference", "candidate"):
        write_dump(tmp_path / role, [*session(), (FRAME._replace(unit=1), film(10, 20, 30))])
    picture_path(tmp_path / side, PictureAt(1, 0, 2)).unlink()
    comparison = diff(tmp_path / "reference", tmp_path / "candidate")
    assert comparison.verdict is Verdict.MISSING
    assert comparison.counts == {Verdict.IDENTICAL: 8, Verdict.MISSING: 1}
    found = [(failure.key, failure.note) for failure in comparison.failures]
    note = f"the {side}'s dump does not keep 1 of the pictures that the other one keeps"
    assert found == [(FRAME._replace(unit=1), note)]
    assert [picture.at for picture in comparison.pictures] == [PictureAt(0), PictureAt(1), PictureAt(1, 0, 1)]
    assert not diff(tmp_path / "reference", tmp_path / "candidate", Judgement(JUDGEMENT.bounds, (), ("frame",)))


def test_pictures_of_which_a_dump_keeps_none_may_be_missing_by_name(reference: Path, tmp_path: Path) -> None:
    candidate = foreign(write_dump(tmp_path / "candidate", session()))
    picture_path(candidate, PictureAt(0)).unlink()
    assert diff(reference, candidate).verdict is Verdict.MISSING
    assert diff(reference, candidate, Judgement(JUDGEMENT.bounds, allowed_missing=("frame",)))


def test_a_picture_without_a_record_is_missing_once_and_where_it_was_not_selected_not_at_all(
    reference: Path, tmp_path: Path
) -> None:
    lacking = write_dump(tmp_path / "lacking", session()[:-1])
    assert diff(reference, lacking).counts == {Verdict.IDENTICAL: 6, Verdict.MISSING: 1}
    selected = write_dump(tmp_path / "selected", session()[:-1], selection=Selection(sites=("transformer.*",)))
    assert diff(reference, selected).verdict is Verdict.IDENTICAL


def film(*levels: int) -> Tensor:
    """Pictures [n,24,24,3], each of one level."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 24, 24, 3)


def test_every_picture_of_a_unit_has_metrics_of_its_own(tmp_path: Path) -> None:
    sides = [
        write_dump(tmp_path / role, [(FRAME, film(10, 20, last)), (FRAME._replace(unit=1), film(40))])
        for role, last in (("reference", 30), ("candidate", 33))
    ]
    found = [(picture.at, picture.mean_abs) for picture in diff(*sides).pictures]
    numbered = [(PictureAt(0, 0, number), error) for number, error in enumerate((0.0, 0.0, 3.0))]
    assert found == [*numbered, (PictureAt(1), 0.0)]


def test_a_fault_in_one_branch_is_named_with_it(tmp_path: Path) -> None:
    def branches(size: float) -> list[tuple[Key, Tensor]]:
        each = [key("velocity")._replace(branch=branch) for branch in ("cond", "uncond")]
        return [(each[0], normal(8)), (each[1], normal(8, seed=1) * size)]

    session = {"units": 1, "passes": [PassSites("denoise", 0, [(0, 1)], ["velocity@cond", "velocity@uncond"])]}
    sides = [write_dump(tmp_path / str(size), branches(size), **session) for size in (1.0, 1.5)]
    comparison = diff(*sides)
    assert (comparison.compared, comparison.expected) == (2, 2)
    assert comparison.first is not None
    assert comparison.first.key == key("velocity")._replace(branch="uncond")
    assert [(rung.branch, rung.failed) for rung in comparison.sites] == [("cond", 0), ("uncond", 1)]
    lacking = write_dump(tmp_path / "lacking", branches(1.0)[:1], **session)
    assert diff(sides[0], lacking).verdict is Verdict.MISSING


def test_dumps_of_unlike_families_are_incomparable(reference: Path, tmp_path: Path) -> None:
    assert read_manifest(reference).family == "waypoint"
    candidate = write_dump(tmp_path / "candidate", session())
    manifest = (candidate / MANIFEST_NAME).read_text().replace('"waypoint"', '"clips"')
    (candidate / MANIFEST_NAME).write_text(manifest)
    assert diff(reference, candidate).reason == "family differs: candidate clips, reference waypoint"


class TestFullTensors:
    """Where both dumps keep them, errors are exact: a sketch is good to 9 %."""

    def test_they_tell_the_error_exactly(self, tmp_path: Path) -> None:
        right = normal(64, seed=3)
        wrong = right + 1e-3 * normal(64, seed=7)
        exact = float((wrong.double() - right.double()).norm() / right.double().norm())
        dumps = [
            write_dump(tmp_path / name, session(transformer_blocks_3=value), keep=keep)
            for name, value, keep in (("r", right, ["*.3"]), ("c", wrong, ["*.3"]), ("plain", wrong, []))
        ]
        found = diff(*dumps[:2])
        assert found.first is not None
        assert found.first.rel_l2 == pytest.approx(exact, rel=1e-12)
        (rung,) = (rung for rung in found.sites if rung.site == "transformer.blocks.3")
        assert rung.rel_l2 == pytest.approx(exact, rel=1e-12)
        assert found.evidence == "tensors of both dumps and sketches"
        assert found.notes == ["1 observations were compared by full tensors"]
        estimated = diff(dumps[0], dumps[2])
        assert estimated.first is not None
        assert estimated.first.rel_l2 != pytest.approx(exact, rel=1e-6)
        assert estimated.notes == []

    def test_a_tensor_that_its_record_contradicts_is_refused(self, tmp_path: Path) -> None:
        dumps = [write_dump(tmp_path / name, session(), keep=["*.3"]) for name in ("r", "c")]
        kept = load_file(dumps[1] / TENSORS_NAME)
        save_file({name: tensor.flip(0) for name, tensor in kept.items()}, dumps[1] / TENSORS_NAME)
        with pytest.raises(UserError, match="is not what the record tells of"):
            diff(*dumps)

    def test_a_file_that_was_cut_short_is_refused(self, tmp_path: Path) -> None:
        dumps = [write_dump(tmp_path / name, session(), keep=["*.3"]) for name in ("r", "c")]
        content = (dumps[1] / TENSORS_NAME).read_bytes()
        (dumps[1] / TENSORS_NAME).write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="cannot be read"):
            diff(*dumps)


class TestStatisticsAlone:
    """What another tool wrote may prove a divergence, and never parity."""

    @staticmethod
    def without_sketches(dump: Path, *left_out: str) -> Path:
        lines = [json.loads(line) for line in (dump / RECORDS_NAME).read_text().splitlines()]
        bare = [{n: v for n, v in line.items() if n not in ("sketch", "sample", "digest")} for line in lines]
        kept = [line | dict.fromkeys(left_out) for line in bare if not line["site"].startswith(("input", "frame"))]
        (dump / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in kept))
        given = {"family": "", "checkpoint_digest": "", "scenario_digest": "", "inputs": None}
        told = json.loads((dump / MANIFEST_NAME).read_text()) | given | {"observed": len(kept), "expected": len(kept)}
        (dump / MANIFEST_NAME).write_text(json.dumps(told))
        return foreign(dump)

    def dump(self, folder: Path, *left_out: str, **changed: Tensor) -> Path:
        dump = write_dump(folder, session(**changed))
        for picture in (dump / "frames").iterdir():
            picture.unlink()
        return self.without_sketches(dump, *left_out)

    def test_equal_ones_are_not_refuted(self, tmp_path: Path) -> None:
        found = diff(self.dump(tmp_path / "r"), self.dump(tmp_path / "c"))
        assert found.verdict is Verdict.NOT_REFUTED
        assert not found
        assert found.counts == {Verdict.NOT_REFUTED: 5}
        assert (found.evidence, found.first) == ("statistics", None)

    def test_a_scale_is_proven(self, tmp_path: Path) -> None:
        candidate = self.dump(tmp_path / "c", transformer_blocks_2=1.01 * normal(64, seed=2))
        found = diff(self.dump(tmp_path / "r"), candidate)
        assert found.verdict is Verdict.DIVERGED
        assert found.first is not None
        assert (found.first.site, found.first.at_least) == ("transformer.blocks.2", True)
        assert found.first.rel_l2 == pytest.approx(0.01, rel=1e-4)

    def test_a_permutation_is_not_refuted(self, tmp_path: Path) -> None:
        candidate = self.dump(tmp_path / "c", transformer_blocks_2=normal(64, seed=2).flip(0))
        assert diff(self.dump(tmp_path / "r"), candidate).verdict is Verdict.NOT_REFUTED

    def test_a_port_in_bf16_is_not_refuted_and_one_per_cent_is_proven(self, tmp_path: Path) -> None:
        right = normal(64, seed=2)
        for name, tensor, verdict in (
            ("rounded", right.bfloat16().float(), Verdict.NOT_REFUTED),
            ("scaled", 1.01 * right, Verdict.DIVERGED),
        ):
            dumps = [self.dump(tmp_path / f"{name}-r"), self.dump(tmp_path / name, transformer_blocks_2=tensor)]
            for dump in dumps:
                told = json.loads((dump / MANIFEST_NAME).read_text())
                told["numerics"]["dtype"] = "bf16"
                (dump / MANIFEST_NAME).write_text(json.dumps(told))
            assert diff(*dumps).verdict is verdict

    def test_what_shares_no_statistic_is_missing(self, tmp_path: Path) -> None:
        found = diff(
            self.dump(tmp_path / "r", "mean", "std", "rms", "min", "max"), self.dump(tmp_path / "c", "absmean")
        )
        assert found.verdict is Verdict.MISSING
        assert (found.compared, found.counts) == (0, {Verdict.MISSING: 5})

    def test_what_is_not_recorded_is_neither_equal_nor_unequal(self, tmp_path: Path) -> None:
        found = diff(self.dump(tmp_path / "r"), self.dump(tmp_path / "c"))
        assert [note for note in found.notes if note.startswith("checkpoint not checked")]
        assert [note for note in found.notes if note.startswith("inputs not checked")]

    def test_pictures_that_no_family_knows_are_not_passed_unseen(self, tmp_path: Path) -> None:
        dumps = [self.dump(tmp_path / name) for name in ("r", "c")]
        for dump in dumps:
            shutil.copy(write_dump(tmp_path / "other", session()) / "frames/000000.png", dump / "frames")
        found = diff(*dumps)
        assert not found
        assert len(found.contradictions) == 2

    def test_an_input_that_only_statistics_tell_of_is_never_equal(self, reference: Path, tmp_path: Path) -> None:
        candidate = write_dump(tmp_path / "c", session())
        lines = [json.loads(line) for line in (candidate / RECORDS_NAME).read_text().splitlines()]
        for name in ("sketch", "sample", "digest"):
            del lines[0][name]
        (candidate / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert diff(reference, foreign(candidate)).verdict is Verdict.NOT_REFUTED
        lines[0]["absmean"] *= 1 + 1e-6
        (candidate / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert diff(reference, candidate).verdict is Verdict.INCOMPARABLE


def test_without_passes_units_are_the_order_of_execution(tmp_path: Path) -> None:
    """A dump made of stacked tensors has all units of one site before those of the next."""
    places = [(key(site, unit), normal(8, seed=unit)) for site in ("x", "y") for unit in range(3)]
    right = write_dump(tmp_path / "r", places)
    off = {("x", 2), ("y", 0)}
    wrong = [(at, 2 * tensor if (at.site, at.unit) in off else tensor) for at, tensor in places]
    found = diff(right, write_dump(tmp_path / "c", wrong))
    assert [(failure.site, failure.unit) for failure in found.failures] == [("y", 0), ("x", 2)]


class TestWholeNumbers:
    """They are equal or not, in whatever dtype the run computes."""

    @pytest.mark.parametrize("keep", [["*"], []], ids=["tensors", "records"])
    def test_one_of_many_that_differs_is_wrong(self, tmp_path: Path, keep: list[str]) -> None:
        at = key("token_ids")
        dumps = []
        for name, last in (("r", 4095), ("c", 4096)):
            ids = torch.arange(4096)
            ids[-1] = last
            dumps.append(write_dump(tmp_path / name, [(key("input.noise"), normal(8)), (at, ids)], keep=keep))
        assert diff(dumps[0], dumps[0]).verdict is Verdict.IDENTICAL
        found = diff(*dumps)
        assert found.verdict is Verdict.DIVERGED
        assert found.first is not None
        assert found.first.site == "token_ids"

    def test_another_engine_may_sum_them_otherwise(self, tmp_path: Path) -> None:
        dumps = [write_dump(tmp_path / name, [(key("ids"), torch.arange(100))]) for name in ("r", "c")]
        lines = [json.loads(line) for line in (dumps[1] / RECORDS_NAME).read_text().splitlines()]
        del lines[0]["digest"]
        lines[0]["mean"] *= 1 + 1e-8
        (dumps[1] / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert diff(dumps[0], foreign(dumps[1])).verdict is Verdict.IDENTICAL


class TestPictures:
    """What a record tells of a picture cannot tell every picture apart."""

    @pytest.mark.parametrize("moved", [lambda x: x[:, ::-1], lambda x: np.roll(x, 7, 0)], ids=["mirrored", "rolled"])
    def test_one_that_was_moved_is_no_pass(self, reference: Path, tmp_path: Path, moved: Any) -> None:
        candidate = foreign(write_dump(tmp_path / "c", session()))
        lines = [json.loads(line) for line in (candidate / RECORDS_NAME).read_text().splitlines()]
        for line in lines:
            del line["digest"]
        # Where not even a sample is there.
        lines[-1]["sample"] = []
        (candidate / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        picture = picture_path(candidate, PictureAt(0))
        pixels = np.asarray(Image.open(picture))
        Image.fromarray(np.ascontiguousarray(moved(pixels))).save(picture)
        found = diff(reference, candidate)
        assert not found


class TestDigests:
    """A digest says that bits are equal; what else a record says must not contradict it."""

    @pytest.mark.parametrize("site", ["transformer.blocks.2", "input.noise"])
    @pytest.mark.parametrize("changed", ["rms", "sketch", "bare"])
    def test_statistics_of_other_values_beside_an_equal_one_are_no_pass(
        self, reference: Path, tmp_path: Path, site: str, changed: str
    ) -> None:
        candidate = write_dump(tmp_path / "c", session())
        lines = [json.loads(line) for line in (candidate / RECORDS_NAME).read_text().splitlines()]
        (line,) = (line for line in lines if line["site"] == site)
        if changed == "sketch":
            line["sketch"] = lines[5]["sketch"]
        else:
            line |= {name: 1.01 * line[name] for name in ("rms", "absmean", "std")}
        if changed == "bare":
            del line["sketch"], line["sample"]
        (candidate / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        found = diff(reference, foreign(candidate))
        assert not found
        assert found.first is not None
        assert found.first.site == site

    @pytest.mark.parametrize("digest", ["n/a", "", "0x1234", "ABCDEF0123456789"])
    def test_what_is_none_is_refused(self, tmp_path: Path, digest: str) -> None:
        candidate = write_dump(tmp_path / "c", session())
        lines = [json.loads(line) for line in (candidate / RECORDS_NAME).read_text().splitlines()]
        lines[2]["digest"] = digest
        (candidate / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(UserError, match="line 3: not a record"):
            diff(foreign(candidate), candidate)


class TestInputsWithoutDigests:
    """Another engine may hash nothing, and sums in another order."""

    @staticmethod
    def without_digest(dump: Path, **changes: object) -> Path:
        lines = [json.loads(line) for line in (dump / RECORDS_NAME).read_text().splitlines()]
        del lines[0]["digest"]
        lines[0] |= changes
        (dump / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return foreign(dump)

    def test_they_are_equal_up_to_the_rounding_of_sums(self, reference: Path, tmp_path: Path) -> None:
        mean = next(read_records(reference)).mean or 0.0
        candidate = self.without_digest(write_dump(tmp_path / "c", session()), mean=mean * (1 + 1e-7))
        assert diff(reference, candidate).verdict is Verdict.IDENTICAL

    def test_their_elements_may_be_written_with_fewer_digits(self, reference: Path, tmp_path: Path) -> None:
        """The shortest text that reads back as the same fp32."""
        told = next(read_records(reference))
        short = [None if value is None else float(str(np.float32(value))) for value in told.sample]
        assert short != told.sample
        candidate = self.without_digest(write_dump(tmp_path / "c", session()), sample=short)
        assert diff(reference, candidate).verdict is Verdict.IDENTICAL

    def test_another_element_is_another_input(self, reference: Path, tmp_path: Path) -> None:
        noise = normal(8, seed=99)
        noise[3] *= 1 + 1e-6
        candidate = self.without_digest(write_dump(tmp_path / "c", session(input_noise=noise)))
        assert diff(reference, candidate).verdict is Verdict.INCOMPARABLE


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("keep", [(), ("*",)])
def test_another_dtype_of_equal_values_is_told(tmp_path: Path, keep: tuple[str, ...], digests: bool) -> None:
    """True and false on one side, 1.0 and 0.0 on the other; and a site whose type is the same."""
    mask = normal(64) > 0
    both = [(key("out_norm"), normal(8)), (key("patchify"), mask), (key("patchify", unit=1), mask)]
    reference = write_dump(tmp_path / "reference", both, keep=keep)
    as_floats = [(at, tensor.float()) for at, tensor in both]
    candidate = write_dump(tmp_path / "candidate", as_floats, keep=keep)
    if not digests:
        without_digests(reference, candidate)
    comparison = diff(reference, candidate)
    assert comparison.verdict is Verdict.IDENTICAL
    told = [note for note in comparison.notes if "patchify" in note]
    assert len(told) == 1
    assert "float32" in told[0]
    assert "bool" in told[0]
    assert not [note for note in diff(reference, reference).notes if "float32" in note]


@pytest.mark.parametrize("keep", [(), ("*",)])
def test_nothing_but_empty_tensors_is_no_pass(tmp_path: Path, keep: tuple[str, ...]) -> None:
    empty = [(key("input.noise"), normal(8)), *((at, torch.zeros(0, 4)) for at in BLOCKS)]
    comparison = diff(*(write_dump(tmp_path / side, empty, keep=keep) for side in ("reference", "candidate")))
    assert comparison.verdict is Verdict.MISSING
    more = [*empty, (key("out_norm"), normal(8))]
    comparison = diff(*(write_dump(tmp_path / side, more, keep=keep) for side in ("reference", "candidate")))
    assert comparison.verdict is Verdict.IDENTICAL
    assert any(note.startswith("5 observations") for note in comparison.notes)


def without_digests(*dumps: Path) -> None:
    """The dumps as engines write them whose tensors would have to leave a device for it."""
    for dump in dumps:
        lines = [json.loads(line) for line in (foreign(dump) / RECORDS_NAME).read_text().splitlines()]
        kept = ({name: value for name, value in line.items() if name != "digest"} for line in lines)
        (dump / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in kept))


BEYOND = {"1e300": 1e300, "2e300": 2e300, "1e39": 1e39, "infinity": float("inf"), "-1e300": -1e300}


def of_fp64(folder: Path, values: Tensor, keep: tuple[str, ...], *, digests: bool) -> Path:
    """A dump of a usual site and of one with these values."""
    dump = write_dump(folder, [(key("patchify"), normal(8)), (key("out_norm"), values.double())], keep=keep)
    if not digests:
        without_digests(dump)
    return dump


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("keep", [(), ("*",)])
def test_fp64_values_beyond_fp32_are_not_all_alike(tmp_path: Path, keep: tuple[str, ...], digests: bool) -> None:
    """At a place that no sample shows."""

    def dump(name: str) -> Path:
        values = torch.arange(100.0, dtype=torch.float64)
        values[3] = BEYOND[name]
        return of_fp64(tmp_path / name, values, keep, digests=digests)

    dumps = {name: dump(name) for name in BEYOND}
    for name, made in dumps.items():
        same = diff(made, made)
        # Records alone, without digests, do not tell.
        assert same.verdict is (Verdict.IDENTICAL if digests or keep else Verdict.NOT_REFUTED)
        for other in BEYOND.keys() - {name}:
            comparison = diff(made, dumps[other])
            assert not comparison
            if digests or keep:
                assert comparison.verdict is Verdict.DIVERGED
    if keep:
        error = diff(dumps["1e300"], dumps["2e300"]).first
        assert error is not None
        assert error.rel_l2 == pytest.approx(1.0)


def test_an_element_beyond_fp32_is_no_contradiction(tmp_path: Path) -> None:
    """One that the sample has."""
    values = torch.arange(100.0, dtype=torch.float64)
    values[0] = 1e300
    dump = foreign(of_fp64(tmp_path / "dump", values, ("*",), digests=True))
    assert diff(dump, dump).verdict is Verdict.IDENTICAL


@pytest.mark.parametrize("size", [1e300, 1e-300])
@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("keep", [(), ("*",)])
def test_fp64_values_that_all_leave_fp32_are_compared(
    tmp_path: Path, keep: tuple[str, ...], digests: bool, size: float
) -> None:
    right = torch.arange(1.0, 101.0, dtype=torch.float64) / 100 * size
    dumps = [
        of_fp64(tmp_path / str(factor), right * factor, keep, digests=digests) for factor in (1.0, 1.0 + 1e-12, 1.01)
    ]
    same, noise, wrong = (diff(dumps[0], each) for each in dumps)
    assert (same.verdict is Verdict.IDENTICAL) is bool(same) is bool(digests or keep)
    assert wrong.verdict is Verdict.DIVERGED
    if keep:
        assert noise.verdict is Verdict.WITHIN_NOISE
        assert wrong.first is not None
        assert wrong.first.rel_l2 == pytest.approx(1e-2)


CONTRADICTIONS: dict[str, dict[str, Any]] = {
    "extremes": {"min": 3.0, "max": -3.0},
    "moments": {"std": 0.0},
    "sketch": {"sketch": base64.b64encode(np.full(61, 1e3, "<f4").tobytes()).decode()},
    "counts": {"nan": 10**6},
}


@pytest.mark.parametrize("change", CONTRADICTIONS)
def test_dumps_that_contradict_themselves_alike_are_no_pass(tmp_path: Path, change: str) -> None:
    """Nothing vouches for either, both say the same, and it cannot be so."""
    dumps = [foreign(write_dump(tmp_path / side, session())) for side in ("reference", "candidate")]
    assert diff(*dumps).verdict is Verdict.IDENTICAL
    for dump in dumps:
        lines = [json.loads(line) for line in (dump / RECORDS_NAME).read_text().splitlines()]
        lines[4] |= CONTRADICTIONS[change]
        (dump / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = diff(*dumps)
    assert not comparison
    told = [each for each in comparison.contradictions if "line 5" in each]
    assert len(told) == 2


@pytest.mark.parametrize("digests", [True, False])
def test_a_foreign_dump_whose_records_are_not_of_its_tensors_is_no_pass(tmp_path: Path, digests: bool) -> None:
    """The other one keeps none, so that nothing else reads them."""
    reference = write_dump(tmp_path / "reference", session())
    candidate = foreign(write_dump(tmp_path / "candidate", session(), keep=("*.2",)))
    if not digests:
        without_digests(candidate)
    assert diff(reference, candidate)
    tensors = load_file(candidate / TENSORS_NAME)
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, candidate / TENSORS_NAME)
    comparison = diff(reference, candidate)
    assert comparison.verdict is Verdict.UNEXPLAINED
    assert any("transformer.blocks.2" in each for each in comparison.contradictions)


def test_another_spelling_of_numbers_is_no_contradiction(tmp_path: Path) -> None:
    """Other engines may write more digits than nine."""
    dumps = [foreign(write_dump(tmp_path / side, session())) for side in ("reference", "candidate")]
    lines = [json.loads(line) for line in (dumps[1] / RECORDS_NAME).read_text().splitlines()]
    for line in lines:
        line["min"] *= 1 + 1e-12
    (dumps[1] / RECORDS_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert diff(*dumps)
