"""The page that a pair is steered from, in a browser."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from waypoint_parity.harness.checkpoint.checkpoint import Checkpoint
from waypoint_parity.harness.cli.play import PlayCommand
from waypoint_parity.harness.families.waypoint.play.player import Role
from waypoint_parity.harness.families.waypoint.play.server import serving
from waypoint_parity.harness.families.waypoint.play.stage import PlayStage, keys_of, staged
from waypoint_parity.harness.run.adapter import Numerics
from waypoint_parity.harness.run.scenario import Scenario, read_scenario
from waypoint_parity.reports.play import play_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAME = "eager"


@pytest.fixture(scope="module")
def stage(tiny: Checkpoint, tiny_scenario: Scenario, fp32_on_cpu: Numerics) -> Iterator[PlayStage]:
    keys = keys_of(PlayCommand.buttons, PlayCommand.turns, tiny.geometry.transformer.n_buttons)
    reference, candidate = (Role(NAME, tiny, fp32_on_cpu, 1) for _ in range(2))
    with staged(reference, candidate, tiny_scenario, keys) as stage:
        yield stage


@pytest.fixture(scope="module")
def address(stage: PlayStage) -> Iterator[str]:
    with serving(stage.play, lambda token: play_page(asdict(stage.seen), token)) as address:
        yield address


@pytest.fixture
def page(browser: "Browser", stage: PlayStage, address: str) -> "Iterator[Page]":
    """The page of a session that begins; whatever it complains of, or asks of another server, fails the test."""
    stage.play.restart({"seed": stage.seen.seed})
    context = browser.new_context(viewport={"width": 400, "height": 800}, accept_downloads=True)
    page, complaints = context.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if not is_own(asked.url, address) else None)
    page.goto(address)
    wait_for(lambda: frame(page) >= 1)
    yield page
    context.close()
    assert complaints == []


def is_own(url: str, address: str) -> bool:
    origin = address.rpartition("/")[0]
    return url.startswith((f"{origin}/", f"blob:{origin}/", "data:"))


def frame(page: "Page") -> int:
    return int(page.get_attribute("#says", "data-frame") or -1)


def wait_for(holds: Callable[[], bool]) -> None:
    ending = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < ending, "it never came"
        time.sleep(0.05)


def kept(page: "Page", folder: Path) -> Scenario:
    with page.expect_download() as download:
        page.keyboard.press("k")
    download.value.save_as(folder / "kept.safetensors")
    return read_scenario(folder / "kept.safetensors")


def test_frames_follow_each_other_with_both_pictures_and_their_difference(page: "Page") -> None:
    before = frame(page)
    wait_for(lambda: frame(page) > before + 1)
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.naturalHeight])")
    assert sizes == [[640, 360]] * 3
    assert page.get_attribute("#says", "data-mean-abs") == "0"
    assert page.evaluate("document.getElementById('line').points.length") >= 2


def test_keys_steer_both(page: "Page", tmp_path: Path, tiny: Checkpoint) -> None:
    page.keyboard.down("w")
    page.keyboard.down("d")
    before = frame(page)
    wait_for(lambda: frame(page) > before + 2)
    page.keyboard.up("w")
    page.keyboard.up("d")
    before = frame(page)
    wait_for(lambda: frame(page) > before + 2)
    page.keyboard.press("p")
    scenario = kept(page, tmp_path)
    tiny.family.check(scenario, tiny.geometry)
    steered = (scenario["button"][:, 1] == 1) & (scenario["mouse"][:, 0] == 0.5)
    assert steered.any()
    assert not steered[0]
    assert not steered[-1]


def test_a_button_on_the_page_steers_as_its_key_does(page: "Page", tmp_path: Path) -> None:
    page.hover("[data-key=s]")
    page.mouse.down()
    before = frame(page)
    wait_for(lambda: frame(page) > before + 2)
    page.mouse.up()
    assert (kept(page, tmp_path)["button"][:, 2] == 1).any()


def test_it_can_be_paused_and_begun_again(page: "Page", tmp_path: Path) -> None:
    wait_for(lambda: frame(page) >= 3)
    page.keyboard.press("p")
    assert page.get_attribute("#pause", "aria-pressed") == "true"
    time.sleep(1)
    before = frame(page)
    time.sleep(1)
    assert frame(page) == before
    page.fill("#seed", "41")
    page.focus("#pause")
    page.keyboard.press("r")
    wait_for(lambda: frame(page) < before)
    assert kept(page, tmp_path).seed == 41


def test_a_seed_that_is_none_is_told(page: "Page") -> None:
    page.keyboard.press("p")
    page.evaluate("document.getElementById('seed').value = '1.5'")
    page.focus("#pause")
    page.keyboard.press("r")
    wait_for(lambda: "whole number" in (page.text_content("#says") or ""))


def test_nothing_is_wider_than_a_narrow_screen(page: "Page") -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
