"""The table and the plot of what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.parts import ARRAY, CONCURRENCY, OBJECTS, Curve, Row


def table(rows: Iterable[Row], left: str = "reference", right: str = "job") -> str:
    """The rows as Markdown; `left` and `right` name what is compared."""
    lines = [
        f"| what | {left} | {right} | ratio | goal | met |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row.what} | {row.reference} | {row.job} | {row.ratio} | {row.goal}"
            f" | {'' if row.met is None else 'yes' if row.met else '**no**'} |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def results(rows: Sequence[Row], command: str) -> str:
    """The whole file."""
    return (
        f"# Results of `{command}`\n\n"
        f"Python {platform.python_version()}, {os.cpu_count()} cores, which the services share."
        " Medians of several whole processes; what is compared was measured in turns. In every run"
        " each row arrived, once. Latency: 25 ms for a GET or HEAD, 50 ms for a listing, 80 ms for"
        " a POST.\n\n"
        f"{table(rows)}"
    )


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Wall time against objects, concurrency and array size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, panels = pyplot.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    plain = FuncFormatter(lambda value, _: f"{value:,g}")
    for axes, name in zip(panels, (OBJECTS, CONCURRENCY, ARRAY), strict=True):
        shown = [curve for curve in curves if curve.panel == name]
        for curve in shown:
            style = "--" if curve.label.startswith("reference") else "-"
            axes.plot(*zip(*curve.points, strict=True), style, marker="o", label=curve.label)
        axes.set(xlabel=name, ylabel="wall time in seconds", xscale="log", yscale="log")
        ticks = sorted({x for curve in shown for x, _ in curve.points})
        axes.set_xticks(ticks)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(plain)
        axes.yaxis.set_major_formatter(plain)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
