"""A hub that serves one revision of one model from memory, over HTTP on this machine."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol, TypeVar

REVISION = "93fe14eed217bb09c0244a9d91b2b3e88c3de181"
REPOSITORY = "owner/model"


@dataclass
class Hub:
    """The files that it serves, what was fetched from it, and the file whose first transfer it breaks off."""

    files: Mapping[str, bytes]
    breaks_off: str = ""
    address: str = ""
    # (path, first byte) of every download.
    fetched: list[tuple[str, int]] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer HEAD or GET."""
        if request.path.startswith(f"/api/models/{REPOSITORY}/tree/{REVISION}"):
            listing = [
                {"type": "file", "path": path, "size": len(content), "oid": sha1(content)}
                for path, content in self.files.items()
            ]
            return self._send(request, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        path = request.path.removeprefix(f"/{REPOSITORY}/resolve/{REVISION}/")
        if path not in self.files:
            return request.send_error(404)
        content = self.files[path]
        headers = {"ETag": f'"{sha1(content)}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        return self._send(request, content, headers, path if request.command == "GET" else "")

    def _send(
        self, request: BaseHTTPRequestHandler, content: bytes, headers: Mapping[str, str], path: str = ""
    ) -> None:
        first = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        request.send_response(206 if first else 200)
        for name, value in headers.items():
            request.send_header(name, value)
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - first))
        request.end_headers()
        if path:
            self.fetched.append((path, first))
        if path and path == self.breaks_off and not first:
            request.wfile.write(content[: len(content) // 2])
            request.close_connection = True
        elif request.command == "GET":
            request.wfile.write(content[first:])


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Served(Protocol):
    """What can be served."""

    address: str

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        ...


AnyHub = TypeVar("AnyHub", bound=Served)


@contextmanager
def serving(hub: AnyHub) -> Iterator[AnyHub]:
    """Serve `hub` on a free port until the context ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.answer(self)

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
