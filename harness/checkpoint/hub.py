"""Where a checkpoint lies: in a folder, under its bare name in a conventional one, or on the hub.

From the hub comes one pinned revision, and of it only what a checkpoint consists of: a repository that holds a model in
both layouts is fetched in one. The hub's own client keeps the local cache, resumes what was interrupted, shows its bars
on a terminal only and, with HF_HUB_OFFLINE=1, reads the cache without asking anybody.
"""

import re
from pathlib import Path
from typing import Any, Literal

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.run.family import families

RepositoryKind = Literal["model", "dataset"]
PINNED = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
_UNPINNED = re.compile(r"[\w.-]+/[\w.-]+(@.*)?")
_BARE_NAME = re.compile(r"[\w-][\w.-]*")

# As published, and as some tool wrote them; found from the working directory, in this order.
CONVENTIONAL = ("official_weights", "converted_weights")


def locate(location: str) -> tuple[Path, str]:
    """The local folder of the checkpoint at `location`, and how a manifest names it.

    Accepted are a folder, the bare name of one in official_weights/ or converted_weights/, and a hub id with a pinned
    revision (`owner/name@revision`). Raises UserError where there is none, and where the hub cannot be reached.
    """
    folders = [Path(location)]
    if _BARE_NAME.fullmatch(location):
        folders += [Path(home) / location for home in CONVENTIONAL]
    for folder in folders:
        if folder.is_dir():
            return folder, str(folder)
    if pinned := PINNED.fullmatch(location):
        return _fetched(pinned["repo"], pinned["revision"]), location
    if Path(location).is_file():
        found = "a file"
    elif _UNPINNED.fullmatch(location):
        found = "a hub id without a pinned revision, or a misspelt folder"
    else:
        found = "no such folder"
    raise UserError(
        f"{location}: no such checkpoint",
        found=found,
        expected="a folder, the name of one in official_weights/ or converted_weights/, or owner/name@revision with "
        "the 40 hex digits of a commit",
        do="name the checkpoint's folder"
        if found == "a file"
        else "correct the path, or pin the revision; a branch name is no identity",
    )


def _fetched(repo: str, revision: str) -> Path:
    """The local snapshot of a revision, with every file of its checkpoint; the configs say which files those are."""
    found = snapshot(repo, revision, tuple(name for family in families().values() for name in family.configs))
    weights = tuple(name for family in families().values() for name in family.weight_files(found))
    return snapshot(repo, revision, weights) if weights else found


def snapshot(repo: str, revision: str, patterns: tuple[str, ...], *, kind: RepositoryKind = "model") -> Path:
    """The local snapshot of a revision of a hub repository, with its files of these patterns.

    Raises UserError where it cannot be fetched.
    """
    # Imported here: it takes 0.3 s, and most checkpoints are folders.
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # documented, but not re-exported

    class Bar(tqdm):
        """The client's bar; off a terminal the client itself still draws one of several."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **{"disable": None, **settings})  # type: ignore[no-untyped-call]

    try:
        found = snapshot_download(
            repo, repo_type=kind, revision=revision, allow_patterns=list(patterns), tqdm_class=Bar
        )
    except Exception as error:  # among them those of its transport, which differs between the client's releases
        raise UserError(
            f"{repo}@{revision}: cannot be fetched from the hub",
            found=str(error).partition("\n")[0] or type(error).__name__,
            expected="a reachable hub, or the whole snapshot in the local hub cache",
            do="check the id, the connection and, of a private one, the token (HF_TOKEN, or `hf auth login`)",
        ) from error
    return Path(found)
