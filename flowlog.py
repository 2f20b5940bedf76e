"""The job that Code Engine starts: settings in, one mode run, exit code and summary out."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping

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

READS_PER_REQUEST = 4
"""Objects are far smaller than requests, so there are fewer of these in flight."""

OK, NOT_DELIVERED, UNUSABLE = 0, 1, 2


def exit_code(tally: Tally, stop: Stop, *, broken: bool) -> int:
    """The exit code of a run that got past its settings; contract, section 6.

    `broken` says that the mode itself could not go on. A signal counts more than what it left
    undone: 128 plus its number, 143 for SIGTERM.
    """
    if stop.signal is not None:
        return 128 + stop.signal
    return NOT_DELIVERED if broken or tally.failed_total else OK


def open_delivery(settings: Settings, stop: Stop) -> Delivery:
    """The delivery of a real run."""
    return Delivery(
        settings.destination,
        policy=settings.retry,
        concurrency=max(1, settings.concurrency // READS_PER_REQUEST),
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
    """Do one run with this environment; its exit code. The last line logged is the summary.

    `doing` says what the run does in the mode of the settings.
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
        # Before any object was looked for.
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
        job = lib.Job(store, delivery, stop, scope, tally, on_progress)
        try:
            mode(job, settings.event)
        finally:
            job.close()
        return exit_code(tally, stop, broken=False)
    except PushEnded as ended:
        # What was not delivered is in the tally, and is named from there.
        log.debug("the push ended early: %s", ended)
        why, broken = str(ended), False
    except Stopped:
        why = "the run was told to stop"
        log.warning("%s", why)
    except (StoreError, StateError) as error:
        why = str(error)
        log.error("%s", why)
    except Exception as error:
        # What meets one object alone is that object's failure; see `Pusher`.
        why = describe(error)
        log.error("%s", why)
    _name_undelivered(settings, tally, why)
    return exit_code(tally, stop, broken=broken)


def scope_of(settings: Settings) -> lib.Scope:
    """Which objects concern a run, and what is sent of them."""
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
    """Name what a run that ended early was for, where it ended before it came to any object."""
    if tally.objects or tally.skipped or tally.failed_total:
        return
    if settings.event:
        tally.failed.append(settings.event.key, why)
    else:
        log.error(
            "not delivered: what the bucket %s holds under %s; which objects these are is not"
            " known, since the run ended before the first one",
            settings.bucket,
            settings.prefix,
        )


def main() -> None:
    """Run once with the process's environment, and end the process with the exit code."""
    stop = Stop()

    def note(number: int, _frame: object) -> None:
        stop.signal = number

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    code = run(os.environ, stop)
    logging.shutdown()
    # Not sys.exit: threads that still wait for the network must not hold up the end.
    os._exit(code)


if __name__ == "__main__":
    main()
