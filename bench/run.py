"""`python -m bench.run [--quick]`: measures everything, prints and writes the table and plot."""

from __future__ import annotations

import sys
import time

from bench import report
from bench.figures import FIGURES, FULL, QUICK, Curve, Row
from bench.measure import PROJECT


def main() -> None:
    """Measure, and write what came out. A run that lost or repeated a row ends it at once."""
    quick = "--quick" in sys.argv[1:]
    rows: list[Row] = []
    curves: list[Curve] = []
    for figure in FIGURES:
        started = time.monotonic()
        part = figure(QUICK if quick else FULL)
        rows += part.rows
        curves += part.curves
        print(f"# {figure.__name__}, {time.monotonic() - started:.0f} s", flush=True)
        print(report.table(part.rows), flush=True)
    text = report.results(rows, "make bench QUICK=1" if quick else "make bench")
    print(text)
    # A short one is for a look: the files are those of a whole one.
    if not quick:
        (PROJECT / "bench" / "results.md").write_text(text)
        report.plot(curves, PROJECT / "docs" / "bench.png")


if __name__ == "__main__":
    main()
