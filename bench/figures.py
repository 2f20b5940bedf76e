"""The figures of the benchmark. Each function measures one question and returns its part."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from bench import interfaces
from bench.choices import choices
from bench.cpulimit import control_group, duty_cycle
from bench.measure import (
    JOB,
    MIB,
    NONE,
    REFERENCE,
    WIDE,
    Contender,
    Latency,
    Process,
    Run,
    Services,
    Workload,
    Wrong,
    inside,
    median,
    services,
    side_by_side,
)
from bench.parts import (
    ARRAY,
    CONCURRENCY,
    OBJECTS,
    Curve,
    Part,
    Row,
    Scale,
    faster,
    mib,
    peak,
    seconds,
)
from bench.workloads import over_tls, workloads

SMALLEST_CPUS, SMALLEST_MEMORY = 0.125, 256 * MIB
READS_IN_ARRAY = 2
"""Of each instance, so that the wire and not the cores of this machine is what bounds it."""

MOST_SPREAD = 0.1
"""Of the shares of a set of keys, for the median of the sets. Even if each key went to a share by
chance, 8 shares of 10,000 keys would spread by 8% in the median."""

MANY_FASTER = 7
"""The goal for many objects without latency: so many times faster than the reference."""
EVENT_SHARE, EVENT_MIB = 0.5, 32
"""Of the reference's CPU, for a run for one event; and its peak RSS."""


# --- one event, one tick, the least --------------------------------------------------------------


def one_event(scale: Scale) -> Part:
    """A run for one event, of one object of W1."""
    with services(Workload(10, scale.w1.rows)) as where:
        found = side_by_side(
            where,
            NONE,
            {
                "job": Contender(JOB, where.event, scale.events),
                "reference": Contender(REFERENCE, where.event, scale.events),
            },
        )
    job, reference = found["job"], found["reference"]
    share = job.cpu / reference.cpu
    return Part(
        [
            Row("one event: CPU", seconds(reference.cpu), seconds(job.cpu),
                f"{share:.2f} of its CPU", f"at most {EVENT_SHARE}", share <= EVENT_SHARE),
            peak("one event", mib(reference.peak), job.peak, EVENT_MIB),
        ]
    )  # fmt: skip


def quiet_tick(scale: Scale) -> Part:
    """A tick of follow mode over TLS that finds nothing new."""
    ticks = [interfaces.tick(scale.interfaces, scale.days) for _ in range(scale.times)]
    found = median([run for run, _ in ticks])
    asked = ticks[0][1]
    what = f"a tick of follow over TLS, {scale.interfaces} interfaces, nothing new"
    requests = ", ".join(f"{asked[name]} {name}" for name in ("LIST", "PUT", "GET"))
    return Part(
        [
            Row(what, "", seconds(found.wall), requests),
            Row(f"{what}: CPU", "", seconds(found.cpu)),
            peak(what, "", found.peak),
        ]
    )


def smallest_instance(scale: Scale) -> Part:
    """One event with the CPU and the memory of the smallest instance."""
    walls: dict[str, list[float]] = {"job": [], "reference": []}
    how = ""
    with services(Workload(10, scale.w1.rows)) as where:
        for _ in range(max(1, scale.events // 3)):
            for name, arguments in (("job", JOB), ("reference", REFERENCE)):
                run, how = _limited(where, arguments)
                walls[name].append(run.wall)
    job, reference = (statistics.median(walls[name]) for name in ("job", "reference"))
    what = f"one event at 0.125 vCPU and 0.25 GB ({how})"
    return Part([Row(what, seconds(reference), seconds(job), f"{reference / job:.1f} times")])


def _limited(where: Services, arguments: Sequence[str]) -> tuple[Run, str]:
    with control_group(SMALLEST_CPUS, SMALLEST_MEMORY) as enter:
        if enter:
            return where.measure(arguments, where.event, NONE, enter), "control group"
    where.reset(NONE)
    process = Process(arguments, {**where.environ, **where.event})
    with duty_cycle(process.pid, SMALLEST_CPUS):
        run = process.finish()
    where.check(event=True)
    return run, "stopped for 87.5 % of every 100 ms; memory not limited"


def floor(scale: Scale) -> Part:
    """What the work on W2's rows costs at least, in one process, from memory."""
    rows = []
    for library in ("json", "orjson"):
        cpus = [
            inside("floor", library, scale.w2.objects, scale.w2.rows)["cpu"]
            for _ in range(scale.times_of_reference)
        ]
        cpu = statistics.median(cpus)
        what = f"CPU floor of W2: unpack, parse, write, gzip in one process, {library}"
        rows.append(Row(what, "", seconds(cpu)))
    return Part(rows)


# --- large ---------------------------------------------------------------------------------------


def many_objects(scale: Scale) -> Part:
    """Wall time against objects, and the peak with many of them."""
    curves: dict[str, list[tuple[float, float]]] = {}
    rows = []
    for count in scale.counts:
        workload = Workload(count, scale.w1.rows)
        with services(workload) as where:
            for latency, label in ((NONE, ""), (WIDE, ", latency")):
                run = where.measure(JOB, latency=latency)
                curves.setdefault(f"job{label}", []).append((count, run.wall))
                # The reference is linear in the number of objects: two points say all.
                if count in scale.counts[:2]:
                    slow = where.measure(REFERENCE, latency=latency)
                    curves.setdefault(f"reference{label}", []).append((count, slow.wall))
                if count == scale.counts[-1]:
                    what = f"{workload}{label}"
                    by_line = _on_line(curves[f"reference{label}"], count)
                    goal = MANY_FASTER if latency == NONE else None
                    rows += [
                        faster(f"{what} (reference: by its line)", by_line, run.wall, goal),
                        peak(what, "", run.peak),
                    ]
    return Part(rows, [Curve(OBJECTS, label, points) for label, points in curves.items()])


def _on_line(points: Sequence[tuple[float, float]], x: float) -> float:
    """What the line through the first two points is at `x`."""
    (x1, y1), (x2, y2) = points[:2]
    return y1 + (x - x1) * (y2 - y1) / (x2 - x1)


def many_keys(scale: Scale) -> Part:
    """A listing that is held and put in order; then the run is stopped, as its end says nothing."""
    with services(Workload(scale.keys, 0)) as where:
        where.reset(NONE)
        process = Process(JOB, where.environ)
        process.wait_for(f"pushing {scale.keys} objects", seconds=600)
        listed = process.seconds()
        time.sleep(scale.reading_seconds)
        process.signal(signal.SIGTERM)
        run = process.finish(128 + signal.SIGTERM)
    summary = run.summary
    if summary["objects"] + summary["failed_total"] != scale.keys:
        raise Wrong(f"of {scale.keys} keys this became: {summary}")
    text = inside("plain-keys", scale.keys)["bytes"]
    what = f"{scale.keys:,} keys of {text // scale.keys} bytes, listed, held, and read from"
    return Part(
        [
            Row(f"{what} for {scale.reading_seconds:g} s: peak RSS", "", mib(run.peak),
                goal="under 200 MiB", met=run.peak < 200),
            Row(f"{what}: time of the listing", "", seconds(listed)),
        ]
    )  # fmt: skip


# --- side by side with itself --------------------------------------------------------------------


def array(scale: Scale) -> Part:
    """Throughput of an array of separate processes, and how even its shares are."""
    points = []
    with services(Workload(scale.array_objects, scale.w1.rows)) as where:
        for size in scale.array_sizes:
            points.append((float(size), _array_wall(where, size, WIDE)))
    one = points[0][1]
    rows = [
        Row(f"{ARRAY} {size:.0f}, {scale.array_objects:,} objects, latency,"
            f" {READS_IN_ARRAY} reads at a time each", "", seconds(wall),
            f"{one / wall:.1f} times the throughput of one")
        for size, wall in points
    ]  # fmt: skip
    largest = scale.array_sizes[-1]
    spreads = inside("shards", scale.shard_keys, largest, scale.shard_sets)["spreads"]
    spread = statistics.median(spreads)
    rows.append(
        Row(f"spread of {largest} shares of {scale.shard_keys:,} keys,"
            f" {len(spreads)} sets of keys", "", f"{spread:.1%}", f"at worst {max(spreads):.1%}",
            "under 10 %", spread < MOST_SPREAD)
    )  # fmt: skip
    return Part(rows, [Curve(ARRAY, "job, latency", points)])


def _array_wall(where: Services, size: int, latency: Latency) -> float:
    """Seconds until the last of the instances is done."""
    where.reset(latency)
    started = time.perf_counter()
    instances = [
        Process(
            JOB,
            {
                **where.environ,
                "JOB_ARRAY_SIZE": str(size),
                "JOB_INDEX": str(index),
                "FLOWLOG_CONCURRENCY": str(READS_IN_ARRAY),
            },
        )
        for index in range(size)
    ]
    for instance in instances:
        instance.finish()
    wall = time.perf_counter() - started
    where.check()
    return wall


def concurrency(scale: Scale) -> Part:
    """Wall time of W1 with latency against FLOWLOG_CONCURRENCY."""
    points = []
    with services(scale.w1) as where:
        for number in scale.concurrencies:
            run = where.measure(JOB, {"FLOWLOG_CONCURRENCY": str(number)}, WIDE)
            points.append((float(number), run.wall))
    rows = [
        Row(f"W1, latency, FLOWLOG_CONCURRENCY {number:.0f}", "", seconds(wall),
            f"{points[0][1] / wall:.1f} times faster than 1")
        for number, wall in points
    ]  # fmt: skip
    return Part(rows, [Curve(CONCURRENCY, "job, latency", points)])


# --- what the packages are worth -----------------------------------------------------------------

PACKAGES = {"orjson": "orjson", "isal": "isal.isal_zlib"}


def packages(scale: Scale) -> Part:
    """W2 without orjson, isal, or both: the standard library in their places."""
    without: dict[str, Mapping[str, str]] = {
        "neither": {"PYTHONPATH": "bench/without_orjson:bench/without_isal"},
        "no orjson": {"PYTHONPATH": "bench/without_orjson"},
        "no isal": {"PYTHONPATH": "bench/without_isal"},
    }
    with services(scale.w2) as where:
        found = side_by_side(
            where,
            NONE,
            {
                "job": Contender(JOB, times=scale.times_of_reference),
                **{
                    name: Contender(JOB, settings, scale.times_of_reference)
                    for name, settings in without.items()
                },
            },
        )
    job = found["job"]
    rows = [
        Row(f"W2 with {name}: CPU", seconds(found[name].cpu), seconds(job.cpu),
            f"{found[name].cpu / job.cpu:.2f} times the CPU, {found[name].wall / job.wall:.2f}"
            " times the time")
        for name in without
    ]  # fmt: skip
    for name, module in PACKAGES.items():
        cost = [inside("package", name, module) for _ in range(scale.events)]
        imported = statistics.median(one["import"] for one in cost) * 1000
        size = cost[0]["bytes"] / MIB
        rows.append(Row(f"{name}: installed, import", "", f"{size:.1f} MiB, {imported:.1f} ms"))
    return Part(rows)


def gets(scale: Scale) -> Part:
    """The CPU of one GET by `fetch.py` against that of the SDK's client."""
    found: dict[str, list[dict[str, float]]] = {"sdk": [], "fetch": []}
    with services(Workload(scale.gets, scale.w1.rows)) as where:
        where.reset(NONE)
        for _ in range(scale.times_of_reference):
            for how, answers in found.items():
                answers.append(inside("gets", how, scale.gets, environ=where.environ))
    if len({answer["bytes"] for answers in found.values() for answer in answers}) != 1:
        raise Wrong("both ways must read the same bytes")
    cpu = {how: statistics.median(one["cpu"] for one in answers) for how, answers in found.items()}
    calls = {how: answers[0]["calls"] for how, answers in found.items()}
    return Part(
        [
            Row("CPU of a GET, by the SDK's client and by fetch.py", f"{cpu['sdk'] * 1000:.2f} ms",
                f"{cpu['fetch'] * 1000:.2f} ms", f"{cpu['sdk'] / cpu['fetch']:.1f} times less"),
            Row("function calls of a GET, by the same", f"{calls['sdk']:,.0f}",
                f"{calls['fetch']:,.0f}", f"{calls['sdk'] / calls['fetch']:.1f} times fewer"),
        ]
    )  # fmt: skip


FIGURES: Sequence[Callable[[Scale], Part]] = (
    workloads,
    over_tls,
    one_event,
    quiet_tick,
    smallest_instance,
    floor,
    many_objects,
    many_keys,
    array,
    concurrency,
    packages,
    gets,
    choices,
)
