"""The site of the pages builds without a warning, and fits a telephone as well as a desk."""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
pytest.importorskip("sphinx", reason="sphinx is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built as `nox -s docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-E", "-d", str(folder / "doctrees")]
    ended = subprocess.run(
        [*build, str(ROOT / "docs"), str(folder / "site")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "site"


def test_every_page_is_in_it(site: Path) -> None:
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {page.stem for page in site.glob("*.html")}
    assert {page.stem for page in (site / "site").glob("*.html")} == {"api", "commands", "schemas", "toy"}


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_no_page_scrolls_sideways_or_shows_an_error(site: Path, browser: "Browser", width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    failing: list[str] = []
    page.on("pageerror", lambda error: failing.append(str(error)))
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        broken = page.locator(".system-message, .problematic, .error").count()
        if wide > 0 or broken:
            failing.append(f"{file.name}: {wide} pixels too wide, {broken} errors")
    page.close()
    assert failing == []
