"""The figures of the benchmark. Each function measures one question and returns its part."""

from __future__ import annotations

import json
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.cpulimit import control_group, duty_cycle
from bench.measure import (
    JOB,
    MIB,
    NONE,
    REFERENCE,
    WIDE,
    Contender,
    Latency,
    Median,
    Process,
    Run,
    Services,
    Workload,
    Wrong,
    inside,
    services,
    side_by_side,
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured, and how often."""

    w1: Workload
    w2: Workload
    times: int
    times_of_reference: int
    events: int
    counts: Sequence[int]
    """Objects of the curve; the last one is "many"."""
    keys: int
    array_objects: int
    array_sizes: Sequence[int]
    concurrencies: Sequence[int]
    gets: int
    shard_keys: int = 10_000
    shard_sets: int = 20
    reading_seconds: float = 5.0


FULL = Scale(
    w1=Workload(500, 5),
    w2=Workload(60, 2000),
    times=5,
    times_of_reference=3,
    events=9,
    counts=(100, 500, 2000, 10_000),
    keys=1_000_000,
    array_objects=2000,
    array_sizes=(1, 2, 4, 8),
    concurrencies=(1, 2, 4, 8, 16, 32, 64),
    gets=500,
)
QUICK = Scale(
    w1=Workload(200, 5),
    w2=Workload(10, 2000),
    times=2,
    times_of_reference=1,
    events=3,
    counts=(50, 200, 1000),
    keys=50_000,
    array_objects=400,
    array_sizes=(1, 2, 4),
    concurrencies=(1, 4, 16, 64),
    gets=100,
    shard_sets=3,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; `met` is None where there is no goal."""

    what: str
    reference: str
    job: str
    ratio: str = ""
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Wall time in seconds against something, in the panel of that name."""

    panel: str
    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Part:
    """What one question came to."""

    rows: Sequence[Row]
    curves: Sequence[Curve] = field(default=())


OBJECTS, CONCURRENCY, ARRAY = "objects", "FLOWLOG_CONCURRENCY", "JOB_ARRAY_SIZE"
OTHER_DESTINATIONS = {"cloud-logs": "IBM Cloud Logs", "otlp": "OTLP"}
"""By the value of LOG_DESTINATION."""
SMALLEST_CPUS, SMALLEST_MEMORY = 0.125, 256 * MIB
READS_IN_ARRAY = 2
"""Of each instance, so that the wire and not the cores of this machine is what bounds it."""

MOST_SPREAD = 0.1


# --- against the reference -----------------------------------------------------------------------


def workloads(scale: Scale) -> Part:
    """W1 and W2, without latency and with, to each destination."""
    rows: list[Row] = []
    goals = {("W1", NONE): 4, ("W1", WIDE): 30, ("W2", NONE): 5, ("W2", WIDE): 100}
    for name, workload in (("W1", scale.w1), ("W2", scale.w2)):
        with services(workload) as where:
            for latency in (NONE, WIDE):
                # With latency the reference takes minutes, which no noise moves by much.
                times = scale.times_of_reference if latency == NONE else 1
                found = side_by_side(
                    where,
                    latency,
                    {
                        "job": Contender(JOB, times=scale.times),
                        **{
                            name: Contender(JOB, {"LOG_DESTINATION": name}, scale.times)
                            for name in OTHER_DESTINATIONS
                        },
                        "reference": Contender(REFERENCE, times=times),
                    },
                )
                what = f"{name}, {workload}" + (", latency" if latency == WIDE else "")
                rows += _against(what, found, goals[name, latency])
    return Part(rows)


def _against(what: str, found: Mapping[str, Median], goal: float) -> list[Row]:
    job, reference = found["job"], found["reference"]
    faster = reference.wall / job.wall
    return [
        Row(
            what,
            _seconds(reference.wall),
            _seconds(job.wall),
            f"{faster:.1f} times faster",
            f"{goal:g} times",
            faster >= goal,
        ),
        Row(f"{what}: CPU", _seconds(reference.cpu), _seconds(job.cpu), _times(reference, job)),
        Row(
            f"{what}: peak RSS",
            _mib(reference.peak),
            _mib(job.peak),
            goal="under 100 MiB",
            met=job.peak < 100,
        ),
        *(
            Row(
                f"{what}: to {service}",
                f"{_seconds(job.wall)} to LogDNA",
                _seconds(found[name].wall),
                f"{found[name].wall / job.wall:.2f} times the time,"
                f" {found[name].cpu / job.cpu:.2f} times the CPU",
            )
            for name, service in OTHER_DESTINATIONS.items()
        ),
    ]


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _mib(value: float) -> str:
    return f"{value:.0f} MiB"


def _times(reference: Median, job: Median) -> str:
    return f"{job.cpu / reference.cpu:.2f} of its CPU"


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
            Row("one event: CPU", _seconds(reference.cpu), _seconds(job.cpu),
                f"{share:.2f} of its CPU", "at most 0.8", share <= 0.8),
            Row("one event: peak RSS", _mib(reference.peak), _mib(job.peak),
                goal="at most 50 MiB", met=job.peak <= 50),
        ]
    )  # fmt: skip


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
    return Part([Row(what, _seconds(reference), _seconds(job), f"{reference / job:.1f} times")])


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
        rows.append(Row(what, "", _seconds(cpu)))
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
                if count == scale.counts[-1]:
                    rows += _many(f"{workload}{label}", run)
                # The reference is linear in the number of objects: two points say all.
                if count in scale.counts[:2]:
                    run = where.measure(REFERENCE, latency=latency)
                    curves.setdefault(f"reference{label}", []).append((count, run.wall))
    return Part(rows, [Curve(OBJECTS, label, points) for label, points in curves.items()])


def _many(what: str, run: Run) -> list[Row]:
    return [
        Row(what, "", _seconds(run.wall)),
        Row(f"{what}: peak RSS", "", _mib(run.peak), goal="under 100 MiB", met=run.peak < 100),
    ]


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
            Row(f"{what} for {scale.reading_seconds:g} s: peak RSS", "", _mib(run.peak),
                goal="under 200 MiB", met=run.peak < 200),
            Row(f"{what}: time of the listing", "", _seconds(listed)),
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
            f" {READS_IN_ARRAY} reads at a time each", "", _seconds(wall),
            f"{one / wall:.1f} times the throughput of one")
        for size, wall in points
    ]  # fmt: skip
    largest = scale.array_sizes[-1]
    spreads = inside("shards", scale.shard_keys, largest, scale.shard_sets)["spreads"]
    spread = statistics.median(spreads)
    rows.append(
        Row(f"spread of {largest} shares of {scale.shard_keys:,} keys,"
            f" {len(spreads)} sets of keys", "", f"{spread:.1%}", f"at worst {max(spreads):.1%}",
            "under 10 %", max(spreads) < MOST_SPREAD)
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
        Row(f"W1, latency, FLOWLOG_CONCURRENCY {number:.0f}", "", _seconds(wall),
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
        Row(f"W2 with {name}: CPU", _seconds(found[name].cpu), _seconds(job.cpu),
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


# --- what is chosen ------------------------------------------------------------------------------

EIGHT_FIELDS = {
    "FLOWLOG_FIELDS": "start_time,action,direction,initiator_ip,initiator_port,target_ip,"
    "target_port,transport_protocol"
}
A_TENTH = {"FLOWLOG_WHERE": "action=='rejected'"}
NEARLY_ALL = {
    "FLOWLOG_WHERE": "!(cidr(initiator_ip, '10.240.0.0/20') && cidr(target_ip, '10.240.0.0/20'))"
}
ALL = "all fields of all flows"
CHOICES: Sequence[tuple[str, Mapping[str, str], float | None]] = (
    (ALL, {}, None),
    ("eight fields", EIGHT_FIELDS, 0.7),
    ("action=='rejected', a tenth of the flows", A_TENTH, 0.8),
    ("a filter with cidr that keeps nearly all", NEARLY_ALL, 1.3),
    ("eight fields of a tenth of the flows", {**EIGHT_FIELDS, **A_TENTH}, None),
)
"""What is measured side by side, and the goal for its time, as a share of the first one's."""

SERVICES = (("LogDNA", {}), ("IBM Cloud Logs", {"LOG_DESTINATION": "cloud-logs"}))

FLOWS_A_DAY = 100 * 1000 * 12 * 24
"""Of a VPC with 100 interfaces, each with 1,000 flows in five minutes."""


def choices(scale: Scale) -> Part:
    """W2 with FLOWLOG_FIELDS and FLOWLOG_WHERE: time, bytes, and what a day comes to."""
    rows = []
    with services(scale.w2) as where:
        for service, destination in SERVICES:
            found = side_by_side(
                where,
                NONE,
                {
                    name: Contender(JOB, {**destination, **settings}, scale.times)
                    for name, settings, _ in CHOICES
                },
            )
            for name, settings, goal in CHOICES:
                size = _size(scale, {**destination, **settings}, found[name].runs[0].summary)
                what = f"W2 to {service}, {name}"
                rows.append(_beside_all(what, found[ALL], found[name], size, goal))
    return Part(rows)


def _beside_all(what: str, whole: Median, chosen: Median, size: str, goal: float | None) -> Row:
    share = chosen.cpu / whole.cpu
    ratio = f"{share:.2f} of the CPU, {chosen.wall / whole.wall:.2f} of the time; {size}"
    return Row(
        f"{what}: CPU",
        _seconds(whole.cpu),
        _seconds(chosen.cpu),
        ratio,
        f"at most {goal}" if goal else "",
        share <= goal if goal else None,
    )


def _size(scale: Scale, settings: Mapping[str, str], summary: Mapping[str, Any]) -> str:
    """Bytes of a line, bytes on the wire, and gigabytes of a day."""
    rest = dict(settings)
    service = rest.pop("LOG_DESTINATION", "logdna")
    size = inside("line-bytes", service, scale.w2.rows, json.dumps(rest))["bytes"]
    a_day = FLOWS_A_DAY * summary["lines_delivered"] / summary["rows"] * size / 1e9
    sent = summary["bytes_sent"] / 1e6
    return f"{size:,.0f} bytes a line, {sent:,.1f} MB on the wire, {a_day:.2f} GB a day"


FIGURES: Sequence[Callable[[Scale], Part]] = (
    workloads,
    one_event,
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
