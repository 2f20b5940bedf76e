"""Progress bars on a terminal, where tqdm is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from desk.look import OnKeys
from push.loop import OnProgress, Progress


def _bar(unit: str) -> Any:
    """A bar; None where there is no terminal, or no tqdm."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(unit=unit, dynamic_ncols=True)


def push_bar() -> OnProgress | None:
    """A bar for a push; None: the job's own lines."""
    bar = _bar(" objects")
    if bar is None:
        return None

    def show(progress: Progress) -> None:
        bar.total = progress.total
        bar.update(progress.settled - bar.n)
        if progress.settled == progress.total:
            bar.close()

    return show


@contextmanager
def listing_bar() -> Iterator[OnKeys]:
    """A bar for a listing, which disappears once it is done."""
    bar = _bar(" keys")
    if bar is None:
        yield lambda _: None
        return
    bar.leave = False
    with bar:
        yield lambda listed: bar.update(listed - bar.n)
