"""W1 and W2: against the reference, to each destination, and over TLS."""

from __future__ import annotations

from collections.abc import Mapping

from bench.measure import (
    JOB,
    NONE,
    REFERENCE,
    WIDE,
    Contender,
    Median,
    services,
    side_by_side,
)
from bench.parts import Part, Row, Scale, faster, mib, peak, seconds

OTHER_DESTINATIONS = {"cloud-logs": "IBM Cloud Logs", "otlp": "OTLP"}
"""By the value of LOG_DESTINATION."""

FASTER = {("W1", NONE): 5, ("W1", WIDE): 44, ("W2", NONE): 7, ("W2", WIDE): 150}
"""The goal for the workloads: so many times faster than the reference."""
TLS_TIMES = 1.3
"""So many times the time without TLS."""


def workloads(scale: Scale) -> Part:
    """W1 and W2, without latency and with, to each destination."""
    rows: list[Row] = []
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
                rows += _against(what, found, FASTER[name, latency])
    return Part(rows)


def _against(what: str, found: Mapping[str, Median], goal: float) -> list[Row]:
    job, reference = found["job"], found["reference"]
    share = f"{job.cpu / reference.cpu:.2f} of its CPU"
    return [
        faster(what, reference.wall, job.wall, goal),
        Row(f"{what}: CPU", seconds(reference.cpu), seconds(job.cpu), share),
        peak(what, mib(reference.peak), job.peak),
        *(
            Row(
                f"{what}: to {service}",
                f"{seconds(job.wall)} to LogDNA",
                seconds(found[name].wall),
                f"{found[name].wall / job.wall:.2f} times the time,"
                f" {found[name].cpu / job.cpu:.2f} times the CPU",
            )
            for name, service in OTHER_DESTINATIONS.items()
        ),
    ]


def over_tls(scale: Scale) -> Part:
    """W1 and W2 with latency over TLS, as everybody runs it, beside the same without TLS."""
    rows = []
    for name, workload in (("W1", scale.w1), ("W2", scale.w2)):
        with services(workload) as where:
            contenders = {
                "plain": Contender(JOB, times=scale.times),
                "TLS": Contender(JOB, where.over_tls, scale.times),
            }
            found = side_by_side(where, WIDE, contenders)
        plain, tls = found["plain"], found["TLS"]
        what = f"{name}, {workload}, latency, over TLS"
        times = tls.wall / plain.wall
        ratio = f"{times:.2f} times the time, {tls.cpu / plain.cpu:.2f} times the CPU"
        rows += [
            Row(what, f"{seconds(plain.wall)} without", seconds(tls.wall), ratio,
                f"at most {TLS_TIMES} times", times <= TLS_TIMES),
            peak(what, f"{mib(plain.peak)} without", tls.peak),
        ]  # fmt: skip
    return Part(rows)
