import json
from pathlib import Path

import pytest
import torch

from tests.harness.observations import key, normal, write_dump
from tests.harness.sweep.baseline.conftest import a_dump, a_run
from waypoint_parity.harness.cli.text.baseline import accepted_lines
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.record.records import RECORDS_NAME
from waypoint_parity.harness.run.keys import Key
from waypoint_parity.harness.sweep.baseline.document import BASELINE_NAME, open_baseline, read_baseline
from waypoint_parity.harness.sweep.baseline.store import accept, adding, stored
from waypoint_parity.harness.sweep.summary import CellFailure


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_dump_is_kept_without_its_full_tensors(tmp_path: Path, store: Path) -> None:
    pixels = torch.zeros(4, 4, 3, dtype=torch.uint8)
    dump = write_dump(tmp_path / "dump", [(key("latent"), normal(4)), (Key(0, "decode", 0, "frame"), pixels)])
    (dump / "tensors.safetensors").write_bytes(bytes(1000))
    baseline = accept(dump, "nightly", store)
    kept = ["dump/activations.jsonl", "dump/frames/000000.png", "dump/manifest.json"]
    assert names(store / "nightly") == [BASELINE_NAME, *kept]
    assert list(baseline.files) == kept
    for file in kept:
        assert (store / "nightly" / file).read_bytes() == (dump / file.removeprefix("dump/")).read_bytes()
    opened = open_baseline(store / "nightly")
    assert opened.document == baseline
    assert baseline.entries["dump"].provenance["checkpoint"] == "c0ffee"


@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_of_a_parity_run_every_cell_is_kept_of_one_side(tmp_path: Path, store: Path, side: str) -> None:
    run = a_run(tmp_path / "run", 1.5)
    baseline = accept(run, "nightly", store, side="candidate" if side == "candidate" else "reference")
    assert list(baseline.entries) == ["walk", "run"]
    for name, entry in baseline.entries.items():
        assert entry.implementation == ("candidate" if side == "candidate" else "eager")
        assert entry.verdict == "DIVERGED"
        kept = (store / "nightly" / name / RECORDS_NAME).read_bytes()
        assert kept == (run / "cells" / name / side / RECORDS_NAME).read_bytes()


def test_what_did_not_hold_and_what_failed_to_run_is_told(tmp_path: Path, store: Path) -> None:
    failed = [CellFailure(name="jump", factors={}, message="no room")]
    baseline = accept(a_run(tmp_path / "run", 1.5, failures=failed), "nightly", store)
    assert baseline.failed == ["jump"]
    lines = accepted_lines(baseline, store / "nightly")
    assert lines[0].startswith(f"{store / 'nightly'}: 2 dumps of candidate, 4 files, accepted 2")
    assert [line.partition(":")[2] for line in lines[1:]] == [
        " parity did not hold in walk, run; what is accepted so is no regression later",
        " not in it, because they failed to run: jump",
    ]
    holds = accept(a_run(tmp_path / "holds"), "holds", store)
    assert len(accepted_lines(holds, store / "holds")) == 1


def test_a_name_that_is_taken_is_refused_and_replaced_with_force(tmp_path: Path, store: Path) -> None:
    first = accept(a_dump(tmp_path / "first"), "nightly", store)
    second = a_run(tmp_path / "second")
    with pytest.raises(UserError, match="exists already"):
        accept(second, "nightly", store)
    assert open_baseline(store / "nightly").document == first
    replaced = accept(second, "nightly", store, force=True)
    assert open_baseline(store / "nightly").document == replaced
    assert [path.name for path in store.iterdir()] == ["nightly"]


def test_what_fails_halfway_leaves_nothing_and_the_earlier_one_as_it_was(tmp_path: Path, store: Path) -> None:
    earlier = accept(a_dump(tmp_path / "dump"), "nightly", store)

    def stops() -> None:
        with adding(store, "nightly", force=True) as folder:
            (folder / "half").write_text("written")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stops()
    assert open_baseline(store / "nightly").document == earlier
    assert [path.name for path in store.iterdir()] == ["nightly"]


def test_a_name_that_is_taken_meanwhile_is_not_overwritten(tmp_path: Path, store: Path) -> None:
    dump = a_dump(tmp_path / "dump")

    def late() -> None:
        with adding(store, "nightly", force=False):
            accept(dump, "nightly", store)

    with pytest.raises(UserError, match="exists already"):
        late()
    assert open_baseline(store / "nightly")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b"])
def test_a_name_that_is_no_folder_of_the_store_is_refused(tmp_path: Path, store: Path, name: str) -> None:
    with pytest.raises(UserError, match="no name of a baseline"):
        accept(a_dump(tmp_path / "dump"), name, store)


def test_a_dump_that_is_cut_short_is_not_accepted(tmp_path: Path, store: Path) -> None:
    dump = a_dump(tmp_path / "dump")
    lines = (dump / RECORDS_NAME).read_bytes().splitlines(keepends=True)
    (dump / RECORDS_NAME).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(UserError, match="too early"):
        accept(dump, "nightly", store)
    assert not store.exists()


@pytest.mark.parametrize("what", ["nothing", "a folder", "an unfinished run"])
def test_what_is_no_run_is_refused(tmp_path: Path, store: Path, what: str) -> None:
    run = tmp_path / "run"
    if what == "a folder":
        run.mkdir()
    if what == "an unfinished run":
        (a_run(run) / "summary.json").unlink()
    with pytest.raises(UserError, match="is no run"):
        accept(run, "nightly", store)


def test_the_store_lists_whole_baselines_by_name(tmp_path: Path, store: Path) -> None:
    assert stored(store) == []
    for name in ("weekly", "nightly"):
        accept(a_dump(tmp_path / "dump"), name, store)
    (store / "other").mkdir()
    (store / ".partial").mkdir()
    assert stored(store) == [store / "nightly", store / "weekly"]


def test_a_baseline_that_is_not_there_is_refused(store: Path) -> None:
    with pytest.raises(UserError, match="no such baseline"):
        open_baseline(store / "nightly")


def damage(folder: Path, how: str) -> None:
    """Break the baseline in `folder`, `how` as a user would tell it."""
    records, document = folder / "dump" / RECORDS_NAME, folder / BASELINE_NAME
    if how == "a record changed":
        records.write_bytes(records.read_bytes().replace(b'"latent"', b'"patent"'))
    elif how == "a file is missing":
        records.unlink()
    elif how == "a file was added":
        (folder / "dump" / "frames").mkdir(exist_ok=True)
        (folder / "dump" / "frames" / "000000.png").write_bytes(b"")
    elif how == "the document is cut short":
        document.write_bytes(document.read_bytes()[:-40])
    elif how == "another schema":
        document.write_text(document.read_text().replace("baseline/1", "baseline/2"))
    else:
        content = json.loads(document.read_text())
        content["entries"] = {"../dump": content["entries"]["dump"]}
        document.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "how",
    [
        "a record changed",
        "a file is missing",
        "a file was added",
        "the document is cut short",
        "another schema",
        "a dump outside of it",
    ],
)
def test_a_damaged_baseline_is_refused_in_four_parts(tmp_path: Path, store: Path, how: str) -> None:
    accept(a_dump(tmp_path / "dump"), "nightly", store)
    damage(store / "nightly", how)
    with pytest.raises(UserError, match=r"(?s)found:.*expected:.*do:.*again"):
        open_baseline(store / "nightly")


def test_the_document_is_read_without_its_files(tmp_path: Path, store: Path) -> None:
    baseline = accept(a_dump(tmp_path / "dump"), "nightly", store)
    damage(store / "nightly", "a file is missing")
    assert read_baseline(store / "nightly") == baseline
