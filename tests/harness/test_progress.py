"""Progress away from a terminal: lines on standard error, a minute apart."""

import pytest

from waypoint_parity.harness import progress


def test_where_a_session_is_is_told_a_minute_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.counter(3) as announce:
        announce("first")
        with progress.working("second"):
            for second in range(0, 181, 20):
                now[0] = second
                progress.moved(f"frame {second}")
    progress.moved("nobody is told")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["60 s", "120 s", "180 s"]
    assert all("1 of 3 runs" in line and "second" in line for line in lines)
    assert lines[0].endswith("frame 60")


def test_a_worker_tells_by_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.working("a cell"):
        now[0] = 61.0
        progress.moved("frame 7")
    assert capsys.readouterr().err == "61 s: a cell: frame 7\n"
