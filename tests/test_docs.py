"""The documentation: its links work, and what it says about the code is true."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.harness import PROJECT

README = PROJECT / "README.md"
DOCS = PROJECT / "docs"
PAGES = [
    README,
    PROJECT / "SECURITY.md",
    PROJECT / "CHANGELOG.md",
    PROJECT / "deploy" / "terraform" / "README.md",
    *sorted(DOCS.glob("*.md")),
]
README_LINES = 180

FOLDERS = ("desk", "run", "push", "bucket", "destinations", "connections")
PROGRAM = [
    *(path for path in PROJECT.glob("*.py") if not path.name.startswith("test_")),
    *(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py")),
]
VARIABLE = re.compile(r"[A-Z]+(?:_[A-Z0-9]+)+|APIKEY|LOG")
READ_BY_LIBRARIES: set[str] = set()


# --- links ---------------------------------------------------------------------------------------


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(text: str) -> Iterator[str]:
    """The targets of all links and images that lead to a file or a heading of this project."""
    prose = re.sub(r"`[^`\n]*`", "", without_code_blocks(text))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings: a repeated heading gets a number."""
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", without_code_blocks(text), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def broken_links(page: Path, text: str) -> list[str]:
    """The targets that do not exist."""

    def leads_somewhere(target: str) -> bool:
        name, _, anchor = target.partition("#")
        file = page.parent / unquote(name) if name else page
        if not file.exists() or not anchor:
            return file.exists()
        return anchor in anchors(text if file == page else file.read_text())

    return [target for target in links(text) if not leads_somewhere(target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_noticed() -> None:
    text = "# A `b` & [c](docs)!\n# Twice\n# Twice\n```\n# none [x](none.md)\n```\n`[y](none.md)`\n"
    assert anchors(text) == {"a-b--c", "twice", "twice-1"}
    good = "[1](#a-b--c) [2](#twice-1) [3](docs) [4](SECURITY.md#reporting) [5](https://a.b/#c)"
    assert broken_links(README, text + good) == []
    bad = ["#none", "#twice-2", "none.md", "docs/none.md#a", "SECURITY.md#none"]
    assert broken_links(README, text + " ".join(f"[x]({target})" for target in bad)) == bad


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= README_LINES
    linked = {target.partition("#")[0] for target in links(text)}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= linked


# --- what the pages say of the code --------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    named = re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|sh|md|json))`", page.read_text())
    places = (PROJECT, page.parent)
    assert [name for name in named if not any((at / name).is_file() for at in places)] == []


def texts(path: Path) -> Iterator[str]:
    """The literal texts of a module, those in an f-string each on its own."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def first_cells(page: str) -> list[str]:
    """The first cell of every row of every table."""
    return re.findall(r"^\| (.*?) \|", (DOCS / page).read_text(), re.MULTILINE)


def test_the_settings_page_has_every_variable_that_the_code_reads_and_no_other() -> None:
    read = {text for path in PROGRAM for text in texts(path) if VARIABLE.fullmatch(text)}
    assert {"COS_BUCKET", "APIKEY", "LOG", "FLOWLOG_MODE", "CE_DATA"} <= read
    described = [
        name for cell in first_cells("settings.md") for name in re.findall("`(.+?)`", cell)
    ]
    assert len(described) == len(set(described)), "a variable is described once"
    assert set(described) - READ_BY_LIBRARIES == read


def test_the_messages_that_troubleshooting_quotes_are_those_of_the_code() -> None:
    said = "\n".join(text for path in PROGRAM for text in texts(path))
    quoted = [text for cell in first_cells("operations.md") for text in re.findall("`(.+?)`", cell)]
    messages = [text for text in quoted if " " in text]
    assert len(messages) > 10
    # The variable parts of messages: names, numbers, and the store's error codes.
    seams = r"…|: |[()]|\d+|\b[A-Z][a-z]+(?:[A-Z][a-z]+)+|^the log service |^IBM Cloud Logs "
    for message in messages:
        for part in re.split(seams, message):
            assert part.strip(" ,") in said, message


def test_the_layout_on_the_design_page_is_that_of_the_code() -> None:
    page = (DOCS / "design.md").read_text()
    (tree,) = re.findall(r"^```\n(flowlog\.py .*?)^```$", page, re.MULTILINE | re.DOTALL)
    named, folder = set(), ""
    for indent, name in re.findall(r"^( {2})?([\w.-]+/?) ", tree, re.MULTILINE):
        folder = folder if indent else name if name.endswith("/") else ""
        if name.endswith(".py"):
            named.add(f"{folder}{name}")
    modules = {str(path.relative_to(PROJECT)) for path in PROGRAM if path.name != "__init__.py"}
    assert named == modules | {"test_flowlog_to_logdna.py"}


def test_the_figures_of_the_performance_page_are_those_that_were_measured() -> None:
    page = (DOCS / "performance.md").read_text()
    (table,) = re.findall(r"^\| what \|.*\n(?:\|.*\n)+", page, re.MULTILINE)
    rows = table.splitlines()
    assert len(rows) > 20
    assert set(rows) <= set((PROJECT / "bench" / "results.md").read_text().splitlines())
