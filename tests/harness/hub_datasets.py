"""A hub that keeps dataset repositories in memory and takes commits, over HTTP on this machine.

It answers the calls that huggingface_hub makes to create a repository, list it, upload a folder and download a
snapshot. Every file is taken within the commit ("regular"); the hub's own storage of large files is not stood in for.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.harness.hub_server import sha1

Files = dict[str, bytes]


@dataclass
class Repository:
    """Its revisions, the newest one last, and what it was created as."""

    created: dict[str, Any]
    revisions: dict[str, Files] = field(default_factory=lambda: {hashlib.sha1(b"").hexdigest(): {}})

    @property
    def head(self) -> str:
        return list(self.revisions)[-1]

    def files(self, revision: str) -> Files:
        return self.revisions[self.head if revision == "main" else revision]


@dataclass
class DatasetHub:
    """The repositories by id. `before_commit`: a commit that somebody else makes while an upload is under way."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    refuses: bool = False
    before_commit: Files | None = None

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(request.path).path)
        parts = path.strip("/").split("/")
        if self.refuses:
            return _send(request, {"error": "no write access"}, 403)
        if path == "/api/repos/create":
            return self._create(request, json.loads(body))
        if parts[0] == "datasets":
            return self._resolve(request, "/".join(parts[1:3]), parts[4], "/".join(parts[5:]))
        repository = self.repositories.get("/".join(parts[2:4]))
        if repository is None:
            return _send(request, {"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        what, revision = parts[4] if len(parts) > 4 else "info", parts[5] if len(parts) > 5 else "main"
        return getattr(self, f"_{what}")(request, repository, revision, body)

    def _create(self, request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.repositories:
            return _send(request, {"error": "exists", "url": f"{self.address}/datasets/{repo}"}, 409)
        self.repositories[repo] = Repository(asked)
        return _send(request, {"url": f"{self.address}/datasets/{repo}"})

    def _info(self, request: BaseHTTPRequestHandler, repository: Repository, revision: str, _: bytes) -> None:
        siblings = [{"rfilename": path} for path in repository.files(revision)]
        _send(request, {"id": "owner/baselines", "sha": repository.head, "siblings": siblings})

    _revision = _info

    def _tree(self, request: BaseHTTPRequestHandler, repository: Repository, revision: str, _: bytes) -> None:
        files = repository.files(revision).items()
        _send(request, [{"type": "file", "path": path, "size": len(of), "oid": sha1(of)} for path, of in files])

    def _preupload(self, request: BaseHTTPRequestHandler, repository: Repository, revision: str, body: bytes) -> None:
        taken = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in _files(body)]
        _send(request, {"files": taken})

    def _commit(self, request: BaseHTTPRequestHandler, repository: Repository, revision: str, body: bytes) -> None:
        if self.before_commit is not None:
            self._push(repository, self.before_commit)
        lines = [json.loads(line) for line in body.splitlines()]
        if lines[0]["value"].get("parentCommit", repository.head) != repository.head:
            return _send(request, {"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = dict(repository.files(revision))
        for line in lines[1:]:
            if line["key"] == "deletedFile":
                del files[line["value"]["path"]]
            else:
                assert line["key"] == "file", line["key"]
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        oid = self._push(repository, files)
        url = f"{self.address}/datasets/owner/baselines/commit/{oid}"
        return _send(request, {"success": True, "commitOid": oid, "commitUrl": url})

    def _push(self, repository: Repository, files: Files) -> str:
        oid = hashlib.sha1(repository.head.encode() + repr(sorted(files.items())).encode()).hexdigest()
        repository.revisions[oid] = files
        return oid

    def _resolve(self, request: BaseHTTPRequestHandler, repo: str, revision: str, path: str) -> None:
        content = self.repositories[repo].files(revision).get(path)
        if content is None:
            return _send(request, {"error": "no such file"}, 404, {"X-Error-Code": "EntryNotFound"})
        return _send(request, content, 200, {"ETag": f'"{sha1(content)}"', "X-Repo-Commit": revision})


def _files(body: bytes) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(body)["files"]
    return files


def _send(
    request: BaseHTTPRequestHandler, content: object, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in {
        "Content-Length": str(len(body)),
        "Content-Type": "application/json",
        **(headers or {}),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
