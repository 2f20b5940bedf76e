"""The job that Code Engine starts: reads settings, runs one mode, logs a summary and exits."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing

import lib
from bucket.errors import StoreError
from bucket.state import StateError
from bucket.store import Store
from connections.stop import Stop, Stopped
from connections.unforeseen import describe
from logdna_synchronous import Delivery
from push.ledger import Tally
from push.loop import OnProgress, PushEnded
from run.masking import Mask, secrets_of
from run.report import SUMMARY, LoggedProgress, log_failures, start_logging, summary
from run.settings import Settings, Unusable, log_level_of, mode_of, read_settings

log = logging.getLogger("flowlog")

READS_PER_REQUEST, READS_PER_LARGE_REQUEST = 3, 6
"""A request to the log service holds the lines of many objects, so fewer of them are in flight.

Fewer still where it is not compressed, since it stays in memory until it is answered.
"""

OK, NOT_DELIVERED, UNUSABLE = 0, 1, 2


def exit_code(tally: Tally, stop: Stop, *, broken: bool) -> int:
    """The exit code of a run that got past its settings; contract, section 6.

    `broken`: the mode itself could not continue. After a signal the code is 128 plus its number
    (143 for SIGTERM), whether or not all objects were delivered.
    """
    if stop.signal is not None:
        return 128 + stop.signal
    return NOT_DELIVERED if broken or tally.failed_total else OK


def open_delivery(settings: Settings, stop: Stop) -> Delivery:
    """The delivery of a real run."""
    compressed = settings.destination.compressed
    reads = READS_PER_REQUEST if compressed else READS_PER_LARGE_REQUEST
    return Delivery(
        settings.destination,
        policy=settings.retry,
        concurrency=max(1, settings.concurrency // reads),
        stop_requested=stop.requested,
    )


def run(
    environ: Mapping[str, str],
    stop: Stop | None = None,
    *,
    delivery: Callable[[Settings, Stop], Delivery] = open_delivery,
    on_progress: OnProgress | None = None,
    doing: Callable[[str], lib.Mode] = lib.MODES.__getitem__,
) -> int:
    """Do one run with this environment; return its exit code. The summary is logged last.

    `doing` returns what the run does, given the mode of the settings.
    """
    started = time.monotonic()
    secrets = secrets_of(environ)
    start_logging(log_level_of(environ), secrets)
    tally, settings, opened, stop = Tally(), None, None, stop or Stop()
    try:
        settings = read_settings(environ)
        opened = delivery(settings, stop)
        mode = doing(settings.mode)
        show = on_progress or LoggedProgress()
        code = _run_mode(settings, mode, stop, opened, tally, show)
    except Unusable as unusable:
        for fault in unusable.faults:
            log.error("%s", fault)
        log.error("nothing was sent: correct the settings named above")
        code = UNUSABLE
    except Exception as error:
        # No object was listed or read yet.
        why, code = describe(error), NOT_DELIVERED
        log.error("nothing was sent: %s", why)
        if settings:
            _name_undelivered(settings, tally, why)
    log_failures(tally)
    traffic = opened.traffic if opened else None
    seconds = time.monotonic() - started
    log.log(SUMMARY, "%s", summary(mode_of(environ), tally, traffic, seconds, Mask(secrets)))
    return code


def _run_mode(
    settings: Settings,
    mode: lib.Mode,
    stop: Stop,
    delivery: Delivery,
    tally: Tally,
    on_progress: OnProgress,
) -> int:
    for warning in settings.warnings:
        log.warning("%s", warning)
    scope = scope_of(settings)
    if settings.event and (reason := scope.nothing_to_do(settings.event)):
        log.info("nothing to do for %s: %s", settings.event.key, reason)
        tally.skipped += 1
        return OK
    log.info("mode %s, bucket %s at %s", settings.mode, settings.bucket, settings.endpoint)
    broken = True
    try:
        store = open_store(settings, stop)
        with closing(lib.Job(store, delivery, stop, scope, tally, on_progress)) as job:
            mode(job, settings.event)
        return exit_code(tally, stop, broken=False)
    except PushEnded as ended:
        # The tally has what was not delivered; it is logged from there.
        log.debug("the push ended early: %s", ended)
        why, broken = str(ended), False
    except Stopped:
        why = "the run was told to stop"
        log.warning("%s", why)
    except (StoreError, StateError) as error:
        why = str(error)
        log.error("%s", why)
    except Exception as error:
        # An error that concerns one object only is handled in `Pusher`.
        why = describe(error)
        log.error("%s", why)
    _name_undelivered(settings, tally, why)
    return exit_code(tally, stop, broken=broken)


def scope_of(settings: Settings) -> lib.Scope:
    """Which objects a run handles, and what it sends of them."""
    return lib.Scope(
        settings.prefix,
        settings.state_key,
        settings.shard,
        settings.period,
        settings.selection,
        settings.job_run,
    )


def open_store(settings: Settings, stop: Stop) -> Store:
    """The bucket of a run."""
    return Store(settings.location, settings.retry, settings.concurrency, stop.pause)


def _name_undelivered(settings: Settings, tally: Tally, why: str) -> None:
    """Name what was not delivered by a run that ended before its first object."""
    if tally.objects or tally.skipped or tally.failed_total:
        return
    if settings.event:
        tally.failed.append(settings.event.key, why)
    else:
        log.error(
            "not delivered: all objects of bucket %s whose keys start with %s; they can't be named,"
            " since the run ended before the first one",
            settings.bucket,
            settings.prefix,
        )


def main() -> None:
    """Run once with the process's environment, and end the process with the exit code."""
    stop = Stop()

    def on_signal(number: int, _frame: object) -> None:
        stop.signal = number

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    code = run(os.environ, stop)
    logging.shutdown()
    # Not sys.exit: it would wait for threads that still wait for the network.
    os._exit(code)


if __name__ == "__main__":
    main()
