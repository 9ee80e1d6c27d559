"""The page in a browser: dragged and keyed, without a network, in dark and light, wide and narrow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.reports.conftest import FRAMES, STALE
from waypoint_parity.harness.judge.comparison import COMPARISON_NAME, read_comparison
from waypoint_parity.harness.sweep.summary import SUMMARY_NAME, read_summary

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

# The least contrast of text by WCAG 2.2, 1.4.3.
LEAST_CONTRAST = 4.5
# How far the candidate's frame is cut off from the left, as the style says it.
CUT = "document.getElementById('candidate').style.clipPath"
# The pictures of the viewer.
SHOWN = ("#reference", "#candidate", "#difference")
# Puts another clipboard into the page.
SET = "(value => Object.defineProperty(navigator, 'clipboard', {value, configurable: true}))"
# Of every element that shows text of its own, its contrast to what lies behind it. Pictures are not looked through.
CONTRASTS = """() => {
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const over = ([r, g, b, a = 1], below) => [r, g, b].map((c, i) => c * a + below[i] * (1 - a));
  const luminance = color => {
    const [r, g, b] = color.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    if (!element) return [255, 255, 255];
    const color = channels(getComputedStyle(element).backgroundColor);
    return (color[3] ?? 1) === 1 ? color : over(color, behind(element.parentElement));
  };
  return Array.from(document.querySelectorAll("body *")).filter(element =>
    Array.from(element.childNodes).some(node => node.nodeType === 3 && node.textContent.trim())
      && element.checkVisibility() && !element.closest("script, style, select")
  ).map(element => {
    const style = getComputedStyle(element), below = behind(element);
    const text = over(channels(element.closest("svg") ? style.fill : style.color), below);
    const [light, dark] = [luminance(text), luminance(below)].sort((a, b) => b - a);
    return [`${element.tagName} ${element.textContent.slice(0, 40)}`, (light + 0.05) / (dark + 0.05)];
  });
}"""


@dataclass
class Opened:
    """A page, and what it asked for and complained of."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def state(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    @property
    def shown(self) -> str:
        """The line above the frames: which one is shown, and its measures."""
        return self.page.inner_text("#says")


Opening = Callable[..., Opened]


@pytest.fixture
def opened(browser: "Browser", diverged: Path) -> Iterator[Opening]:
    """Opens a report, else that of the run that diverged."""
    contexts = []

    def open_page(width: int = 1280, scheme: str = "light", run: Path = diverged) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        found = Opened(context.new_page())

        def requested(request: "Request") -> None:
            found.requests.append(request.url)

        found.page.on("request", requested)
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.goto((run / "report.html").as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()


def test_nothing_is_fetched_and_nothing_goes_wrong(opened: Opening, diverged: Path) -> None:
    at = opened()
    for key in "odbasjjk??v":
        at.page.keyboard.press(key)
    at.page.wait_for_timeout(100)
    outside = [url for url in at.requests if not url.startswith("data:")]
    assert outside == [(diverged / "report.html").as_uri()]
    assert at.complaints == []


def test_the_swipe_follows_the_mouse_and_the_slider_the_arrows(opened: Opening) -> None:
    at = opened()
    at.page.keyboard.press("s")
    stage = at.page.locator("#stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    assert at.state(CUT) == "inset(0px 0px 0px 50%)"
    at.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 40)
    at.page.mouse.down()
    at.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 40, steps=4)
    at.page.mouse.up()
    assert at.state(CUT) == "inset(0px 0px 0px 25%)"
    at.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 40)
    assert at.state(CUT) == "inset(0px 0px 0px 25%)"
    at.page.focus("#slider")
    at.page.keyboard.press("ArrowRight")
    assert at.state(CUT) == "inset(0px 0px 0px 26%)"


@pytest.mark.parametrize(
    ("key", "mode", "visible"),
    [
        ("s", "swipe", ["reference", "candidate"]),
        ("o", "onion", ["reference", "candidate"]),
        ("b", "blink", ["reference", "candidate"]),
        ("d", "difference", ["difference"]),
        ("a", "all", ["reference", "candidate", "difference"]),
    ],
)
def test_a_key_chooses_how_the_two_are_shown(opened: Opening, key: str, mode: str, visible: list[str]) -> None:
    at = opened()
    at.page.keyboard.press("d" if key == "s" else "s")
    at.page.keyboard.press(key)
    assert at.page.get_attribute("[data-mode][aria-pressed=true]", "data-mode") == mode
    assert [name for name in ("reference", "candidate", "difference") if at.page.is_visible(f"#{name}")] == visible
    assert at.page.is_disabled("#slider") is (mode not in ("swipe", "onion"))


def test_the_onion_skin_fades_and_blink_turns_the_candidate_on_and_off(opened: Opening) -> None:
    at = opened()
    opacity = "document.getElementById('candidate').style.opacity"
    at.page.keyboard.press("o")
    at.page.locator("#slider").fill("30")
    assert at.state(opacity) == "0.3"
    at.page.keyboard.press("b")
    assert at.state(opacity) == "1"
    for turned in ("0", "1"):
        at.page.locator(f"#candidate[style*='opacity: {turned};']").wait_for(state="attached", timeout=5000)


def test_keys_and_buttons_go_from_frame_to_frame(opened: Opening) -> None:
    at = opened()
    at.page.click("#strip button:first-child")
    assert at.shown.startswith("frame 0:")
    first = at.page.get_attribute("#reference", "src")
    for press, frame in (("j", 1), ("ArrowRight", 2), ("k", 1), ("ArrowLeft", 0), ("k", FRAMES - 1)):
        at.page.keyboard.press(press)
        assert at.shown.startswith(f"frame {frame}:")
    assert at.page.get_attribute("#reference", "src") != first
    at.page.click("#next")
    assert at.shown.startswith("frame 0:")


def test_the_worst_frame_of_the_cell_in_focus_is_shown_first(opened: Opening, diverged: Path) -> None:
    at = opened()
    summary = read_summary(diverged / SUMMARY_NAME)
    (number,) = (number for number, each in enumerate(summary.variants.values()) if each.candidate == STALE)
    comparison = list(summary.variants.values())[number]
    worst = min(comparison.pictures, key=lambda picture: picture.ssim)
    assert at.page.input_value("#variant") == str(number)
    assert at.shown.startswith(f"frame {worst.at}: SSIM {worst.ssim:.6f}, mean |d| {worst.mean_abs:.4f}")


def test_the_first_divergence_on_the_page_is_that_of_the_file(opened: Opening, diverged: Path) -> None:
    at = opened()
    cells = read_summary(diverged / SUMMARY_NAME).cells.values()
    compared = [read_comparison(diverged / cell.folder / COMPARISON_NAME) for cell in cells]
    (first,) = (comparison.first for comparison in compared if comparison.first is not None)
    row = at.page.locator("#cause .panel:not([hidden]) [id^=first-divergence] tbody tr")
    assert row.locator("[data-quantity=site]").inner_text() == first.site
    assert row.locator("[data-quantity=rel_l2]").inner_text() == f"{first.rel_l2:.2e}"
    for name in ("unit", "step", "rel_l2", "tolerance", "cosine", "norm_ratio", "max_abs"):
        value = row.locator(f"[data-quantity={name}]").get_attribute("data-value")
        assert value is not None
        assert float(value) == getattr(first, name)


def test_another_variant_is_chosen_by_the_list_or_by_its_name(opened: Opening) -> None:
    at = opened()
    panels = "Array.from(document.querySelectorAll('#ladder .panel'), p => p.hidden)"
    before = at.state(panels)
    assert sorted(before) == [False, True]
    at.page.keyboard.press("v")
    assert at.state("document.activeElement.id") == "variant"
    other = before.index(True)
    at.page.select_option("#variant", str(other))
    assert at.state(panels) == [not hidden for hidden in before]
    at.page.click(f"[data-select='{before.index(False)}']")
    assert at.state(panels) == before


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_does_not_scroll_sideways(opened: Opening, width: int) -> None:
    at = opened(width)
    for mode in "sda":
        at.page.keyboard.press(mode)
        assert at.state("document.documentElement.scrollWidth") <= at.state("window.innerWidth") == width
    assert at.page.locator("#stage").bounding_box()["width"] <= width  # type: ignore[index]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_legible_in_both_schemes(opened: Opening, scheme: str) -> None:
    at = opened(scheme=scheme)
    at.page.keyboard.press("s")
    contrasts = at.state(CONTRASTS)
    assert len(contrasts) > 200
    assert [text for text, contrast in contrasts if contrast < LEAST_CONTRAST] == []
    assert ("fb" in at.state("getComputedStyle(document.body).getPropertyValue('--page')")) is (scheme == "light")


def test_focus_is_seen(opened: Opening) -> None:
    at = opened()
    at.page.keyboard.press("Tab")
    outlines = "getComputedStyle(document.activeElement).outlineStyle"
    assert at.state("document.activeElement !== document.body")
    assert at.state(outlines) == "solid"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("run", ["diverged", "unsearched", "holding", "incomparable", "second"])
def test_the_first_screen_shows_verdict_cause_and_the_pictures(
    opened: Opening, request: pytest.FixtureRequest, run: str
) -> None:
    folder = request.getfixturevalue(run)
    at = opened(run=folder)
    assert at.page.inner_text("#verdict") == read_summary(folder / SUMMARY_NAME).verdict
    lead = ".panel:not([hidden]) > .lead"
    assert at.page.inner_text(lead)
    boxes = [at.page.locator(each).bounding_box() for each in ("#verdict", lead, *SHOWN)]
    for box in boxes:
        assert box is not None
        assert box["height"] > 10
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 800
        assert box["x"] + box["width"] <= 1280
    pictures = [box for box in boxes[2:] if box is not None]
    # Beside each other, each as large as can be.
    assert len({box["y"] for box in pictures}) == 1
    assert all(box["width"] > 400 for box in pictures)
    assert [at.state(f"document.querySelector('{each}').naturalWidth > 0") for each in SHOWN] == [True] * 3
    # As wide as they are: a picture that is pulled to another shape hides what is wrong with it.
    shape = at.state("(i => i.naturalWidth / i.naturalHeight)(document.querySelector('#reference'))")
    assert pictures[0]["width"] / pictures[0]["height"] == pytest.approx(shape, rel=0.02)


def test_pictures_that_lie_on_each_other_are_named_at_their_own_sides(opened: Opening) -> None:
    at = opened()
    for mode in "so":
        at.page.keyboard.press(mode)
        sides = [at.page.locator(f"figure:has({each}) figcaption").bounding_box() for each in SHOWN[:2]]
        stage = at.page.locator("#stage").bounding_box()
        assert stage is not None
        middles = [side["x"] + side["width"] / 2 - stage["x"] for side in sides if side is not None]
        assert 0 < middles[0] < stage["width"] / 2 < middles[1] < stage["width"]


def test_a_question_mark_tells_the_keys(opened: Opening) -> None:
    at = opened()
    assert not at.page.is_visible("#keys")
    at.page.keyboard.press("?")
    told = at.page.locator("#keys kbd").all_inner_texts()
    assert {"a", "s", "o", "b", "d", "j", "k", "v", "?"} <= set(told)
    at.page.keyboard.press("Escape")
    assert not at.page.is_visible("#keys")


def test_a_command_is_copied_or_where_there_is_no_clipboard_selected(opened: Opening) -> None:
    at = opened()
    commands = at.page.locator("#cause .panel:not([hidden]) .command")
    for number, verb in enumerate(("parity", "blame")):
        command = commands.nth(number).locator("pre").inner_text()
        assert command.startswith(f"waypoint-parity {verb} ")
        at.state(
            "window.kept = []; CLIPBOARD({writeText: async text => { kept.push(text); }})".replace("CLIPBOARD", SET)
        )
        commands.nth(number).locator("button").click()
        assert at.state("kept") == [command]
        at.state("CLIPBOARD(undefined)".replace("CLIPBOARD", SET))
        commands.nth(number).locator("button").click()
        assert at.state("getSelection().toString()") == command


def test_the_ladder_is_cut_to_what_is_beyond_the_bound(opened: Opening) -> None:
    at = opened()
    rows = "#ladder .panel:not([hidden]) tbody tr"
    all_of, wrong = at.page.locator(rows).count(), at.page.locator(f"{rows}:has(.bad)").count()
    assert 0 < wrong < all_of
    at.page.check("#beyond")
    assert at.page.locator(f"{rows}:visible").count() == wrong


def test_no_table_is_cut_without_a_sign_and_its_first_column_stays(opened: Opening) -> None:
    at = opened(400)
    boxes = at.page.locator(".panel:not([hidden]) .box:has(table)")
    cut = [each for each in boxes.all() if each.evaluate("box => box.scrollWidth > box.clientWidth + 1")]
    assert len(cut) >= 4
    for box in cut:
        assert box.evaluate("box => getComputedStyle(box).backgroundImage.includes('gradient')")
        box.evaluate("box => box.scrollLeft = 9999")
        first = box.locator("tbody td:first-child").first.bounding_box()
        around = box.bounding_box()
        assert first is not None
        assert around is not None
        assert first["x"] == pytest.approx(around["x"], abs=1)
        assert first["width"] < 0.6 * around["width"]
