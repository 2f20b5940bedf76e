"""`python -m bench.run [--quick] [FIGURE...]`: measures; prints and writes the table and the plot.

With the names of figures it measures only these anew and keeps what the files say of the others.
With `--against DIRECTORY` it compares the version of the job that is there with this one and writes
no file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

from bench import report
from bench.figures import FIGURES
from bench.measure import PROJECT
from bench.parts import FULL, QUICK, Curve, Part, Row, Scale
from bench.versions import versions

RESULTS = PROJECT / "bench" / "results.json"
"""All that was measured, by figure."""


def main() -> None:
    """Measure, and write what came out. A run that lost or repeated a row ends it at once."""
    names = [figure.__name__ for figure in FIGURES]
    parser = argparse.ArgumentParser(description="Measures the job beside the reference.")
    parser.add_argument("--quick", action="store_true", help="small workloads; writes no file")
    parser.add_argument("figures", nargs="*", choices=[*names, []], metavar="FIGURE")
    parser.add_argument("--against", type=Path, metavar="DIRECTORY", help="another version")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    if options.against:
        rows = versions(scale, options.against.resolve(strict=True))
        print(report.table(rows, "old", "new"))
        return
    parts = {} if options.quick else kept(RESULTS)
    parts |= measured(options.figures or names, scale)
    found = [parts[name] for name in names if name in parts]
    rows = [row for part in found for row in part.rows]
    if options.quick:
        # For a look: no file says that so little was measured, and the goals are for all of it.
        print(report.results(rows, "make bench QUICK=1"))
        return
    RESULTS.write_text(json.dumps({n: dataclasses.asdict(p) for n, p in parts.items()}, indent=1))
    (PROJECT / "bench" / "results.md").write_text(report.results(rows, "make bench"))
    report.plot([curve for part in found for curve in part.curves], PROJECT / "docs" / "bench.png")


def measured(names: Sequence[str], scale: Scale) -> dict[str, Part]:
    """The parts of these names."""
    parts = {}
    for figure in FIGURES:
        if figure.__name__ in names:
            started = time.monotonic()
            part = parts[figure.__name__] = figure(scale)
            print(f"# {figure.__name__}, {time.monotonic() - started:.0f} s", flush=True)
            print(report.table(part.rows), flush=True)
    return parts


def kept(path: Path) -> dict[str, Part]:
    """The parts of an earlier run."""
    if not path.exists():
        return {}
    return {
        name: Part([Row(**row) for row in part["rows"]], [Curve(**c) for c in part["curves"]])
        for name, part in json.loads(path.read_text()).items()
    }


if __name__ == "__main__":
    main()
