import re
from xml.etree import ElementTree

import pytest

from waypoint_parity.reports.plots import CurvePlot, LadderPoint, ladder_plot, trajectory_plot

POINTS = [
    LadderPoint("denoise 0", 0.0, 1e-5, None, False),
    LadderPoint("denoise 0", 1e-3, 1e-5, 1e-3, True),
    LadderPoint("cache", None, 1e-5, None, True),
]


@pytest.fixture(scope="module")
def curve() -> CurvePlot:
    return CurvePlot("mean |d|", logarithmic=True)


@pytest.fixture(scope="module", params=["curve", "ladder", "trajectory"])
def svg(request: pytest.FixtureRequest, curve: CurvePlot) -> str:
    if request.param == "curve":
        return curve.svg(["0", "1", "2"], [0.0, 0.5, None], [1e-3, 1e-3, None], "c0")
    if request.param == "ladder":
        return ladder_plot(POINTS, 1, "c0")
    return trajectory_plot("high-band share", ["0.0", "0.1"], [0.2, 0.1], [0.2, None], "c0")


def test_a_plot_is_an_element_with_words_and_nothing_around_it(svg: str) -> None:
    assert svg.startswith('<svg role="img" aria-label="')
    ElementTree.fromstring(svg)


def test_its_colours_are_the_page_s(svg: str) -> None:
    assert set(re.findall(r"#[0-9a-f]{6}", svg)) == set()
    assert "var(--ink)" in svg


def test_its_ids_are_its_own(svg: str) -> None:
    named = re.findall(r'\bid="([^"]*)"', svg)
    assert named
    assert all(name.startswith("c0-") for name in named)
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) <= set(named)


def test_axes_drawn_on_again_show_nothing_of_the_cell_before(curve: CurvePlot) -> None:
    first = curve.svg(["0", "1"], [0.5, 0.25], [0.1, 0.1], "p")
    curve.svg(list("01234567"), [1e-6] * 8, [None] * 8, "p")
    assert curve.svg(["0", "1"], [0.5, 0.25], [0.1, 0.1], "p") == first
