"""`make screenshot`: the tester's report of a bucket worth a look, as a picture for the docs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from standins import watched
from standins.place import BUCKET, PROJECT, services

PICTURE = PROJECT / "docs" / "report.png"


def report(file: Path, days: int = watched.DAYS) -> None:
    """Write the report of the stand-in's bucket, with objects of the last days."""
    with services("logdna") as place, tempfile.TemporaryDirectory() as folder:
        watched.fill(place.store, BUCKET, days)
        ini = Path(folder) / "test.ini"
        settings = {
            **place.environ,
            "FLOWLOG_MODE": "follow",
            "FLOWLOG_SINCE": f"{days}d",
            "FLOWLOG_FIELDS": "-collector_crn,-attached_endpoint_type,-version",
        }
        del settings["PATH"], settings["HOME"]
        ini.write_text("[env]\n" + "".join(f"{name} = {settings[name]}\n" for name in settings))
        command = [sys.executable, "test_flowlog_to_logdna.py", ini, "--report", file]
        subprocess.run(command, cwd=PROJECT, check=True, timeout=300)


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, as Debian packages it; it asks nobody for anything by itself."""
    from playwright.sync_api import sync_playwright

    quiet = ("no-first-run", "disable-background-networking", "disable-component-update")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=[*flags, *(f"--{name}" for name in quiet)],
        )
        try:
            yield opened
        finally:
            opened.close()


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder, browser() as opened:
        file = Path(folder) / "report.html"
        report(file)
        page = opened.new_page(viewport={"width": 1100, "height": 1000}, color_scheme="light")
        page.goto(file.as_uri())
        page.screenshot(path=PICTURE)


if __name__ == "__main__":
    main()
