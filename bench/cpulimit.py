"""Limits CPU and memory of a process to those of a small Code Engine instance.

By a control group of Linux where this user may make one. Otherwise the process is stopped for most
of each period from outside, which limits its CPU alone; which of both it was is said with the
figure.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
PERIOD_SECONDS = 0.1


@contextmanager
def control_group(cpus: float, memory_bytes: int) -> Iterator[Callable[[], None] | None]:
    """What a new process calls to live under these limits; None where they can't be set."""
    name = f"flowlog-bench-{os.getpid()}"
    period = int(PERIOD_SECONDS * 1e6)
    if (GROUPS / "cgroup.controllers").exists():
        limits = {
            GROUPS / name: {"cpu.max": f"{int(cpus * period)} {period}", "memory.max": memory_bytes}
        }
    else:
        limits = {
            GROUPS / "cpu" / name: {
                "cpu.cfs_period_us": period,
                "cpu.cfs_quota_us": int(cpus * period),
            },
            GROUPS / "memory" / name: {"memory.limit_in_bytes": memory_bytes},
        }
    made: list[Path] = []
    try:
        yield _enter(made) if _make(limits, made) else None
    finally:
        for group in made:
            # The process is gone, but its group may hold on to it for a moment.
            for _ in range(50):
                with suppress(OSError):
                    group.rmdir()
                    break
                time.sleep(0.02)


def _make(limits: dict[Path, dict[str, object]], made: list[Path]) -> bool:
    try:
        for group, values in limits.items():
            group.mkdir()
            made.append(group)
            for file, value in values.items():
                (group / file).write_text(str(value))
    except OSError:
        return False
    return True


def _enter(groups: list[Path]) -> Callable[[], None]:
    def enter() -> None:
        for group in groups:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    return enter


@contextmanager
def duty_cycle(pid: int, share: float) -> Iterator[None]:
    """Let the process run for this share of each period only."""
    over = threading.Event()

    def cycle() -> None:
        with suppress(ProcessLookupError):
            while not over.is_set():
                os.kill(pid, signal.SIGCONT)
                time.sleep(PERIOD_SECONDS * share)
                os.kill(pid, signal.SIGSTOP)
                over.wait(PERIOD_SECONDS * (1 - share))

    thread = threading.Thread(target=cycle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
