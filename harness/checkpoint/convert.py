"""Writing a checkpoint in another layout, bit for bit."""

import shutil
from pathlib import Path

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint, open_checkpoint
from waypoint_parity.harness.errors import UserError, listed
from waypoint_parity.harness.files import writing
from waypoint_parity.harness.run.family import family_in


def convert(checkpoint: Checkpoint, layout: str, folder: Path, *, force: bool = False) -> bool:
    """Write `checkpoint` into `folder`; false where that holds the very same model in this layout already.

    Values, dtypes and keys stay as they are, which is checked by digest before `folder` appears under its name: nothing
    half-written is ever taken for a checkpoint. Raises UserError where `folder` holds anything else, unless `force`d to
    replace another checkpoint, and where the layout cannot express a config.
    """
    layouts = checkpoint.family.layouts
    if layout not in layouts:
        raise UserError(
            f"{checkpoint.family.name} has no such layout",
            found=layout,
            expected=f"one of {listed(sorted(layouts)) or 'none: these checkpoints have one layout'}",
            do="correct --to",
        )
    write = layouts[layout]
    if folder.exists():
        if not force and _holds(folder, layout, checkpoint):
            return False
        _refuse_to_replace(folder, force)
    partial, replaced = folder.with_name(f"{folder.name}.partial"), folder.with_name(f"{folder.name}.replaced")
    try:
        with writing(folder):
            for leftover in (partial, replaced):
                shutil.rmtree(leftover, ignore_errors=True)
            partial.mkdir(parents=True)
            write(checkpoint, partial)
        _verify(partial, checkpoint)
        with writing(folder):
            if folder.exists():
                folder.rename(replaced)
            partial.rename(folder)
    finally:
        for leftover in (partial, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return True


def _verify(partial: Path, checkpoint: Checkpoint) -> None:
    """Raise UserError where what was written is not the same model."""
    written = open_checkpoint(partial)
    if written.digest == checkpoint.digest:
        return
    before, after = (
        {key: value for config in opened.geometry.to_json().values() for key, value in config.items()}
        for opened in (checkpoint, written)
    )
    lost = [f"{key}: {value}" for key, value in before.items() if after[key] != value]
    raise UserError(
        f"{checkpoint.origin}: cannot be converted without loss",
        found=", ".join(lost) or "other weights after writing",
        expected="a config that both layouts can express, and a disk that keeps what is written",
        do="keep the checkpoint in its own layout" if lost else "convert again, to another disk",
    )


def _holds(folder: Path, layout: str, checkpoint: Checkpoint) -> bool:
    """Whether `folder` holds the same model in this layout."""
    family = family_in(folder)
    if family is None or family.layout_of(folder) != layout:
        return False
    try:
        return open_checkpoint(folder).digest == checkpoint.digest
    except UserError:
        return False


def _refuse_to_replace(folder: Path, force: bool) -> None:
    """Raise UserError for what is no checkpoint, which is never deleted, and without `force` for every folder."""
    foreign = not folder.is_dir() or (family_in(folder) is None and any(folder.iterdir()))
    if foreign or not force:
        raise UserError(
            f"{folder}: exists already",
            found="something that is no checkpoint" if foreign else "another model, or another layout of this one",
            expected="a folder that does not exist"
            + ("" if foreign else ", or --force to replace the checkpoint in it"),
            do="name another folder" + ("" if foreign else ", or add --force"),
        )
