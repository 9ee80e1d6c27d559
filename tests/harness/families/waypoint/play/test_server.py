import io
import json
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from waypoint_parity.harness.errors import UserError
from waypoint_parity.harness.families.waypoint.play.pair import Pair
from waypoint_parity.harness.families.waypoint.play.player import PlayerError
from waypoint_parity.harness.families.waypoint.play.server import LOOPBACK, TOKEN_HEADER, Play, packed, serving
from waypoint_parity.harness.run.scenario import read_scenario

# Of the tiny checkpoint.
BUTTONS = 4


class Asking:
    """What a page does: it knows the address and the token."""

    def __init__(self, address: str) -> None:
        self.port, self.page = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.+)", address).groups()  # type: ignore[union-attr]
        self.token = self.get(self.page)[1].decode().removeprefix("token ")

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        return self._answer("GET", path, b"", headers)

    def post(self, path: str, body: object, **headers: str) -> tuple[int, bytes]:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._answer("POST", path, content, {TOKEN_HEADER: self.token, **headers})

    def _answer(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = HTTPConnection(LOOPBACK, self.port, timeout=60)
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        content = answer.status, answer.read()
        connection.close()
        return content


@pytest.fixture
def asking(pair: Pair) -> Iterator[Asking]:
    with serving(Play(pair, BUTTONS), "token {}".format) as address:
        yield Asking(address)


def unpacked(content: bytes) -> list[bytes]:
    parts, at = [], 0
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        parts.append(content[at + 4 : at + 4 + length])
        at += 4 + length
    return parts


def test_a_frame_comes_with_its_measures_and_three_pictures(asking: Asking, pair: Pair) -> None:
    status, content = asking.post("/frame", {"buttons": [1], "mouse": [0.5, 0]})
    assert status == 200
    says, *pictures = unpacked(content)
    told: dict[str, Any] = json.loads(says)
    assert (told["frame"], pair.frames) == (0, 1)
    assert set(told["seconds"]) == {"reference", "candidate"}
    assert told["max_abs"] <= 1
    shown = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
    assert [picture.shape for picture in shown] == [(360, 640, 3)] * 3
    assert pair.recorded()["button"][0, 1] == 1


def test_the_walk_can_be_fetched_as_a_scenario(asking: Asking, pair: Pair, tmp_path: Path) -> None:
    assert asking.post("/scenario", {})[0] == 400
    asking.post("/frame", {"buttons": [2]})
    status, content = asking.post("/scenario", {})
    assert status == 200
    (tmp_path / "walked.safetensors").write_bytes(content)
    assert read_scenario(tmp_path / "walked.safetensors").digest == pair.recorded().digest


def test_a_session_can_begin_again(asking: Asking, pair: Pair) -> None:
    asking.post("/frame", {})
    assert asking.post("/restart", {"seed": 5})[0] == 200
    assert pair.frames == 0
    for seed in ("five", 1.5, -1, 1 << 60):
        assert asking.post("/restart", {"seed": seed})[0] == 400


def test_who_does_not_know_the_token_is_refused(asking: Asking, pair: Pair) -> None:
    assert asking.post("/frame", {}, **{TOKEN_HEADER: "guessed"})[0] == 403
    assert asking.post("/frame", {}, **{TOKEN_HEADER: ""})[0] == 403
    assert asking.post("/frame", {}, **{TOKEN_HEADER: "gu\xe9ssed"})[0] == 403
    assert [asking.get(path)[0] for path in ("/", "/guessed")] == [404, 404]
    assert pair.frames == 0


def test_a_name_that_only_resolves_to_this_machine_is_refused(asking: Asking, pair: Pair) -> None:
    assert asking.get(asking.page, Host="rebound.example")[0] == 404
    assert asking.post("/frame", {}, Host="rebound.example")[0] == 403
    assert pair.frames == 0
    assert asking.get(asking.page, Host=f"localhost:{asking.port}")[0] == 200


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/frame", b"{", 400),
        ("/frame", b"[]", 400),
        ("/frame", {"buttons": [99]}, 400),
        ("/elsewhere", {}, 403),
        ("/frame", b" " * (1 << 17), 413),
    ],
)
def test_what_cannot_be_answered_is_refused(asking: Asking, path: str, body: object, status: int) -> None:
    assert asking.post(path, body)[0] == status


@pytest.mark.parametrize("length", ["-1", "many"])
def test_a_request_without_a_length_is_refused(asking: Asking, length: str) -> None:
    assert asking.post("/frame", {}, **{"Content-Length": length})[0] == 413


def test_a_page_that_is_closed_while_a_frame_is_in_work_does_no_harm(
    asking: Asking, pair: Pair, capfd: pytest.CaptureFixture[str]
) -> None:
    request = (
        f"POST /frame HTTP/1.1\r\nHost: {LOOPBACK}\r\n{TOKEN_HEADER}: {asking.token}\r\nContent-Length: 2\r\n\r\n{{}}"
    )
    with socket.create_connection((LOOPBACK, int(asking.port)), timeout=60) as connection:
        connection.sendall(request.encode())
        # No waiting for what is under way: the other end is told at once.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert asking.post("/frame", {})[0] == 200
    assert asking.post("/frame", {})[0] == 200
    assert capfd.readouterr().err == ""


def test_a_refusal_says_what_was_expected(asking: Asking) -> None:
    message = asking.post("/frame", {"buttons": [99]})[1].decode()
    assert "expected: buttons from 0 to 3" in message


class Failing(Play):
    """Has lost a player."""

    def frame(self, asked: Mapping[str, Any]) -> bytes:
        raise PlayerError("eager: its process is gone")


def test_a_failure_of_a_player_is_told_and_is_no_refusal(pair: Pair) -> None:
    with serving(Failing(pair, BUTTONS), "token {}".format) as address:
        assert Asking(address).post("/frame", {}) == (500, b"eager: its process is gone")


def test_a_port_that_is_taken_is_named(asking: Asking, pair: Pair) -> None:
    with (
        pytest.raises(UserError, match=f"port {asking.port} cannot be used"),
        serving(Play(pair, BUTTONS), str, int(asking.port)),
    ):
        pass


def test_a_number_that_is_no_port_is_named(pair: Pair) -> None:
    with pytest.raises(UserError, match="port 70000 cannot be used"), serving(Play(pair, BUTTONS), str, 70000):
        pass


def test_when_it_is_over_nothing_is_stepped_any_more(pair: Pair) -> None:
    play = Play(pair, BUTTONS)
    with serving(play, "token {}".format):
        play.frame({})
    with pytest.raises(UserError, match="the play is over"):
        play.frame({})
    assert pair.frames == 1


def test_parts_are_behind_their_lengths() -> None:
    assert unpacked(packed({"frame": 3}, [b"one", b""])) == [b'{"frame": 3}', b"one", b""]
