"""Baselines in a dataset repository of the hub, each below baselines/NAME, at a pinned revision.

Tested over HTTP against a stand-in on this machine, which answers the calls that huggingface_hub makes, and against a
local hub cache; the hub itself was never in reach.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waypoint_parity.harness.checkpoint.hub import PINNED, RepositoryKind, snapshot
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.sweep.baseline.document import Baseline, OpenedBaseline, named
from waypoint_parity.harness.sweep.baseline.store import add_copy

_DATASET: RepositoryKind = "dataset"


def push(baseline: OpenedBaseline, repo: str, *, force: bool = False) -> str:
    """Upload a baseline to the dataset `repo`, "owner/name", and return where it is pinned: owner/name@revision.

    A repository that does not exist is made, private: frames and statistics of weights are for their owner to publish.
    Raises UserError where the name is taken there, without `force`, and where the hub refuses.
    """
    # Imported here: it takes 0.3 s, which no other command is to wait for.
    from huggingface_hub import HfApi

    name, hub = baseline.document.name, HfApi()
    folder = f"baselines/{named(name)}"
    with _refusals(repo):
        hub.create_repo(repo, repo_type=_DATASET, private=True, exist_ok=True)
        before = hub.dataset_info(repo)
    taken = any(file.rfilename.startswith(f"{folder}/") for file in before.siblings or [])
    if taken and not force:
        raise UserError(
            f"{repo}: has {folder} already",
            found=f"a baseline of this name at {before.sha}",
            expected="a new name",
            do="choose another name, or replace it with --force",
        )
    with _refusals(repo):
        commit = hub.upload_folder(
            repo_id=repo,
            repo_type=_DATASET,
            folder_path=baseline.folder,
            path_in_repo=folder,
            commit_message=f"Baseline {name}",
            # Of the one that is replaced nothing is to stay.
            delete_patterns="*" if taken else None,
            # Where somebody else pushed since the listing, the hub refuses, and nothing of theirs is lost.
            parent_commit=before.sha,
        )
    return f"{repo}@{commit.oid}"


def pull(name: str, pinned: str, store: Path, *, force: bool = False) -> Baseline:
    """Fetch the baseline `name` of a dataset repository into `store`; `pinned` is owner/name@revision.

    Raises UserError for a revision that is not pinned, where there is no such baseline or it is damaged, and where the
    name is taken in the store, without `force`.
    """
    at = PINNED.fullmatch(pinned)
    if at is None:
        raise UserError(
            "no pinned revision of a repository",
            found=pinned,
            expected="owner/name@revision with the 40 hex digits of a commit",
            do="pin the revision, as `baseline push` printed it; a branch name is no identity",
        )
    folder = f"baselines/{named(name)}"
    fetched = snapshot(at["repo"], at["revision"], (f"{folder}/*",), kind=_DATASET)
    if not (fetched / folder).is_dir():
        raise UserError(
            f"{pinned}: has no {folder}",
            found="no file below it",
            expected=f"a baseline called {name}",
            do="correct the name, or the revision",
        )
    return add_copy(fetched / folder, name, store, force=force)


@contextmanager
def _refusals(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into a UserError."""
    try:
        yield
    except Exception as error:  # among them those of its transport, which differs between the client's releases
        raise UserError(
            f"{repo}: the baseline cannot be sent to the hub",
            found=str(error).partition("\n")[0] or type(error).__name__,
            expected="a reachable hub, a repository that exists, and the rights for it",
            do="check the id, the connection and the token (HF_TOKEN, or `hf auth login`)",
        ) from error
