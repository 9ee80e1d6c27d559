"""The page's other half: a server on this machine alone, which steps a pair of sessions when the page asks for a frame.

Bound to loopback; whoever asks must know the token, which the page's address holds: neither another page that is open
in the same browser nor another user of this machine can drive the models or read their frames.
"""

import io
import json
import secrets
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from waypoint_parity.harness.compare.pictures import Pixels
from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.play.pair import Pair, controls_of
from waypoint_parity.harness.families.waypoint.play.player import PlayerError
from waypoint_parity.harness.run.scenario import write_scenario

LOOPBACK = "127.0.0.1"
TOKEN_HEADER = "X-Play-Token"
QUALITY = 85
# A difference is shown at most so many times as large.
MOST_GAIN = 64
_LARGEST_REQUEST = 1 << 16
# Beyond it the page's own numbers are not exact.
_MOST_SEED = 1 << 53


class Play:
    """What the page can ask for: frames, another beginning, the walk so far as a scenario. One at a time."""

    def __init__(self, pair: Pair, n_buttons: int) -> None:
        self._pair = pair
        self._n_buttons = n_buttons
        self._lock = threading.Lock()
        self._over = False

    def frame(self, asked: Mapping[str, Any]) -> bytes:
        """The next frame of both under the controls asked for: see `packed`."""
        controls = controls_of(asked, self._n_buttons)
        with self._turn():
            number = self._pair.frames
            reference, candidate = self._pair.step(controls)
        difference = np.abs(reference.pixels.astype(np.int16) - candidate.pixels.astype(np.int16))
        gain = _gain(int(difference.max()))
        says = {
            "frame": number,
            "mean_abs": float(difference.mean()),
            "max_abs": int(difference.max()),
            "gain": gain,
            "seconds": {"reference": reference.seconds, "candidate": candidate.seconds},
        }
        amplified: Pixels = (difference * gain).clip(0, 255).astype(np.uint8)
        return packed(says, [_jpeg(pixels) for pixels in (reference.pixels, candidate.pixels, amplified)])

    def restart(self, asked: Mapping[str, Any]) -> bytes:
        """Begin again with the noise seed asked for."""
        seed = asked.get("seed", 0)
        if type(seed) is not int or not 0 <= seed < _MOST_SEED:
            raise UserError("no seed", found=str(seed), expected="a whole number from 0 to 2**53", do="correct it")
        with self._turn():
            self._pair.restart(seed)
        return b"{}"

    def scenario(self, asked: Mapping[str, Any]) -> bytes:
        """The walk so far as a scenario file."""
        with self._turn(), TemporaryDirectory() as folder:
            path = Path(folder) / "walked.safetensors"
            write_scenario(self._pair.recorded(), path)
            return path.read_bytes()

    def close(self) -> None:
        """Wait for what is being done; from now on nothing is."""
        with self._lock:
            self._over = True

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._lock:
            if self._over:
                raise UserError("the play is over", found="a late request", expected="none", do="start it again")
            yield


@contextmanager
def serving(play: Play, page: Callable[[str], str], port: int = 0) -> Iterator[str]:
    """Serve what `page` makes of the token, and what it asks for, until the context ends; yields the address.

    Raises UserError for a port that is taken, or none.
    """
    token = secrets.token_urlsafe(16)
    answers: dict[str, Answer] = {"/frame": play.frame, "/restart": play.restart, "/scenario": play.scenario}
    handler = _handler(page(token), token, answers)
    try:
        server = _Server((LOOPBACK, port), handler)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"port {port} cannot be used", found=str(error), expected="a free one", do="name another --port, or none"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/{token}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        # A request that is being answered has a thread of its own.
        play.close()


Answer = Callable[[Mapping[str, Any]], bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A page that is closed or loaded again does not wait for its last frame: nothing to tell."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _handler(page: str, token: str, answers: Mapping[str, Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if not self._is_local() or not _equal(self.path, f"/{token}"):
                return self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return self._send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "0")
            if not length.isdecimal() or int(length) > _LARGEST_REQUEST:
                self.close_connection = True
                return self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, b"", "text/plain")
            content = self.rfile.read(int(length))
            known = _equal(self.headers.get(TOKEN_HEADER, ""), token)
            if not self._is_local() or not known or self.path not in answers:
                return self._send(HTTPStatus.FORBIDDEN, b"", "text/plain")
            return self._send(*_answered(answers[self.path], content))

        def _is_local(self) -> bool:
            # A name that somebody else's server resolved to this machine is not this machine's.
            return self.headers.get("Host", "").partition(":")[0] in (LOOPBACK, "localhost")

        def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def _equal(given: str, expected: str) -> bool:
    # Of texts compare_digest takes ASCII only.
    return secrets.compare_digest(given.encode(), expected.encode())


def _answered(answer: Answer, content: bytes) -> tuple[HTTPStatus, bytes, str]:
    try:
        return HTTPStatus.OK, answer(_asked(content)), "application/octet-stream"
    except UserError as error:
        return HTTPStatus.BAD_REQUEST, str(error).encode(), "text/plain; charset=utf-8"
    except PlayerError as error:
        return HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode(), "text/plain; charset=utf-8"


def _asked(content: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(content or b"{}")
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise UserError("no request", found="no JSON object", expected="a JSON object", do="correct what sends it")
    return asked


def packed(says: Mapping[str, Any], pictures: list[bytes]) -> bytes:
    """JSON and pictures in one answer: each behind its length, four bytes, the lowest first."""
    parts = [json.dumps(says).encode(), *pictures]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _gain(highest: int) -> int:
    gain = 1
    while gain < MOST_GAIN and 2 * gain * highest <= 255:
        gain *= 2
    return gain


def _jpeg(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
