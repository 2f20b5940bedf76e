"""The report in a real browser: nothing is loaded, nothing overflows, everybody can read it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from standins.picture import browser, report
from tests.harness import NIGHTLY

pytestmark = [
    pytest.mark.skipif(not NIGHTLY, reason="part of `make nightly`"),
    pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium"),
]
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of two days: axe and the stand-in's listing take minutes for a week."""
    pytest.importorskip("playwright")
    file = tmp_path_factory.mktemp("report") / "report.html"
    report(file, days=2)
    return file


@pytest.fixture(scope="module")
def chromium(page_file: Path) -> Iterator[Any]:
    with browser() as opened:
        yield opened


@contextmanager
def opened(chromium: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """The page, in a window of this width."""
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        page.goto(file.as_uri())
        yield page
    finally:
        page.close()


def open_table(page: Any) -> Any:
    """Open the table behind the map, with the keyboard alone."""
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    table = page.get_by_role("table", name=re.compile("^Objects by hour"))
    assert table.is_visible()
    return table


def scrolls(page: Any) -> bool:
    """Whether the arrow keys scroll the focused part; the page's policy forbids waiting for it."""
    for _ in range(50):
        page.keyboard.press("ArrowRight")
        if page.evaluate("document.activeElement.scrollLeft") > 0:
            return True
    return False


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_and_no_request_leaves_the_page(
    chromium: Any, page_file: Path, width: int
) -> None:
    page = chromium.new_page(viewport={"width": width, "height": 900})
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    open_table(page)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.locator("rect").first.hover()
    page.emulate_media(media="print")
    assert requests == [page_file.as_uri()]
    page.close()


@pytest.mark.parametrize(("width", "scheme"), list(zip(WIDTHS, SCHEMES, strict=True)))
def test_the_rules_of_wcag_are_kept(
    chromium: Any, page_file: Path, width: int, scheme: str
) -> None:
    """With the table open; among the rules are the contrast of text, names and roles."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with opened(chromium, page_file, width, scheme) as page:
        open_table(page)
        found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "best-practice"]})
        assert found.violations_count == 0, found.generate_report()
        assert {"color-contrast", "svg-img-alt"} <= {one["id"] for one in found.response["passes"]}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_keyboard_reaches_all_numbers(chromium: Any, page_file: Path, width: int) -> None:
    with opened(chromium, page_file, width) as page:
        table = open_table(page)
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        assert focused.get_attribute("role") == "region"
        # Not every browser lets the keyboard scroll without it.
        assert focused.get_attribute("tabindex") == "0"
        assert focused.get_attribute("aria-label") == "Objects by interface and hour"
        if width < table.bounding_box()["width"]:
            assert scrolls(page)
        sums = table.locator("tbody td:nth-last-child(2)").all_text_contents()
        tile = page.locator(".tiles div").filter(has=page.get_by_text("Objects", exact=True))
        assert f"{sum(map(int, sums)):,}of " in tile.locator("dd").text_content()


def test_a_screen_reader_gets_the_numbers(chromium: Any, page_file: Path) -> None:
    with opened(chromium, page_file) as page:
        names = [image.get_attribute("aria-label") for image in page.get_by_role("img").all()]
        assert len(names) == 12
        assert all(re.search(r": \d+ objects, \d+ % of those due\.", name or "") for name in names)
        # Hovering tells the same of each hour.
        titles = page.locator("svg[role=img] rect[class^=c-]:not(.c-mark):not(.c-lag) > title")
        assert (
            titles.count() == page.locator("svg[role=img] rect[height='10']:not(.c-mark)").count()
        )
        table = open_table(page)
        assert table.get_by_role("columnheader", name="23", exact=True).count() == 1
        days = table.get_by_role("rowheader", name=re.compile(r"^\d{4}-\d\d-\d\d$")).count()
        assert days == table.get_by_role("row").count() - 1 >= 2 * 12
        headings = page.get_by_role("heading", level=2).all_text_contents()
        assert len(headings) == page.get_by_role("region").count() - 1 == 4


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrast_of_the_map(chromium: Any, page_file: Path, scheme: str) -> None:
    """Hours without objects stand out from the page and from the others (WCAG 1.4.11)."""
    with opened(chromium, page_file, scheme=scheme) as page:
        colours = {
            level: page.locator(f".legend .c-{level}").evaluate("e => getComputedStyle(e).fill")
            for level in ("all", "none", "before")
        }
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert contrast(colours["none"], ground) >= 3
        assert contrast(colours["all"], ground) >= 3
        assert contrast(colours["none"], colours["before"]) >= 3


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
