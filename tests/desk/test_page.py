"""The report in a real browser: nothing is loaded, nothing overflows, everybody can read it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from standins.picture import browser, report

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(not os.environ.get("FLOWLOG_NIGHTLY"), reason="part of `make nightly`"),
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "report.html"
    report(file)
    return file


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page(chromium: Any, page_file: Path, width: int, scheme: str) -> None:
    """With the table behind the map closed and open."""
    from axe_playwright_python.sync_playwright import Axe

    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    for state in ("closed", "open"):
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if state == "closed":  # axe takes minutes for thousands of cells
            found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "best-practice"]})
            assert found.violations_count == 0, found.generate_report()
        page.locator("summary").focus()
        page.keyboard.press("Enter")
    assert page.locator("table.hours").is_visible()
    assert requests == [page_file.as_uri()]
    page.close()


def test_keyboard_and_screen_reader_get_the_numbers(chromium: Any, page_file: Path) -> None:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    page.goto(page_file.as_uri())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    table = page.get_by_role("table").filter(has_text="Objects by hour")
    assert table.get_by_role("rowheader").count() >= 2 * 12 * 7
    images = page.get_by_role("img")
    assert images.count() == 12
    assert "of those due" in (images.first.get_attribute("aria-label") or "")
    assert page.locator("rect title").first.text_content()
    page.close()


def test_contrast_of_the_map(chromium: Any, page_file: Path) -> None:
    """Hours without objects stand out from full ones by more than their colour (WCAG 1.4.11)."""
    for scheme in ("light", "dark"):
        page = chromium.new_page(color_scheme=scheme)
        page.goto(page_file.as_uri())
        colours = {
            level: page.locator(f".legend .c-{level}").evaluate("e => getComputedStyle(e).fill")
            for level in ("all", "none", "before")
        }
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert contrast(colours["none"], ground) >= 3
        assert contrast(colours["all"], ground) >= 3
        assert contrast(colours["none"], colours["before"]) >= 3
        page.close()


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2 between two colours, as a browser writes them: rgb(1, 2, 3)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)
