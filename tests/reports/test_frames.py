"""The page of frames alone, in a browser, and its JUnit document."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.frame_files import session, write_folder
from tests.reports.test_junit import cases, message, parsed
from waypoint_parity.harness.judge.frames import compare_frames
from waypoint_parity.reports.frames import write_frames_report
from waypoint_parity.reports.junit import frames_junit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SIZE = (72, 96)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of a reference, a port that lacks a frame and goes wrong, and a second run of the reference."""
    folder, frames = tmp_path_factory.mktemp("frames"), session(4, size=SIZE)
    wrong = [*frames[:1], *session(4, noise=20, size=SIZE)[1:]]
    sessions = {"vendor": frames, "port": wrong, "again": session(4, noise=2, seed=1, size=SIZE)}
    paths = [write_folder(folder / name, of) for name, of in sessions.items()]
    (paths[1] / "000003.png").unlink()
    return paths


@pytest.fixture(scope="module")
def page(browser: "Browser", sides: list[Path], tmp_path_factory: pytest.TempPathFactory) -> "Page":
    """The opened page, of which nothing was fetched and which complained of nothing."""
    reference, candidate, floor = sides
    comparison = compare_frames(reference, candidate, floor=floor)
    written = write_frames_report(comparison, reference, candidate, floor, tmp_path_factory.mktemp("page") / "out")
    opened, asked, complaints = browser.new_page(), list[str](), list[str]()
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda said: complaints.append(said.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(written.as_uri())
    for key in "odbasjjk":
        opened.keyboard.press(key)
    assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]
    assert complaints == []
    return opened


def test_the_page_begins_with_the_verdict_where_it_fails_and_the_floor(page: "Page") -> None:
    assert page.inner_text("#verdict") == "DIVERGED"
    assert page.inner_text("#first").startswith("frame 000001")
    assert "again" in page.inner_text("#floor")
    assert "frame 000003" in page.inner_text("#missing")


def test_the_worst_frame_is_shown_first_and_keys_move_on(page: "Page") -> None:
    page.reload()
    worst = page.inner_text("#says")
    page.keyboard.press("j")
    assert page.inner_text("#says") != worst
    page.keyboard.press("k")
    assert page.inner_text("#says") == worst
    assert worst.startswith(("frame 000001", "frame 000002"))
    assert page.evaluate("document.getElementById('reference').naturalWidth") == SIZE[1]
    shown = page.locator("#reference").bounding_box()
    assert shown is not None
    assert shown["width"] / shown["height"] == pytest.approx(SIZE[1] / SIZE[0], rel=0.01)


def test_every_frame_has_a_row_and_every_measure_a_curve(page: "Page") -> None:
    page.reload()
    assert page.locator("#frames-0 tbody tr").count() == 4
    assert page.locator(".panel:visible svg").count() == 4


def test_the_second_run_can_be_chosen(page: "Page") -> None:
    page.reload()
    page.select_option("#variant", "1")
    assert page.locator("#frames-0").is_hidden()
    assert page.locator("#frames-1 tbody tr").count() == 4
    assert page.inner_text("#says").startswith("frame 00000")


def test_the_links_lead_to_the_exact_pictures(page: "Page", sides: list[Path]) -> None:
    page.reload()
    folder = Path(page.url.removeprefix("file://")).parent
    for link in page.locator("#links a").all():
        assert (folder / str(link.get_attribute("href"))).is_file()
    assert len(list((folder / "pictures" / "second-run").iterdir())) == 4


def test_a_frame_that_fails_is_a_case_that_fails(sides: list[Path]) -> None:
    (suite,) = parsed(frames_junit(compare_frames(*sides[:2])))
    found = cases(suite)
    assert found == {
        "verdict": "failure",
        "frame 000000": "passed",
        **{f"frame 00000{number}": "failure" for number in (1, 2, 3)},
    }
    assert message(suite, "verdict").startswith("first to fail: frame 000001")
    assert "port does not have it" in message(suite, "frame 000003")


def test_a_comparison_that_holds_has_no_case_that_fails(sides: list[Path]) -> None:
    reference, _, second = sides
    (suite,) = parsed(frames_junit(compare_frames(reference, second, bound=2.0)))
    assert set(cases(suite).values()) == {"passed"}
