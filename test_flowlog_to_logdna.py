"""Tester for a person at a desk: runs the real job against the services named in an ini file.

    python test_flowlog_to_logdna.py test.ini [--key KEY | --all] [--dry-run]

It is no automatic test; those are in tests/.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import flowlog
import lib
from bucket.errors import ObjectError, StoreError
from bucket.listing import ObjectRef
from connections.stop import Stop, Stopped
from destinations.base import Added, Line, Receipt, Source
from logdna_synchronous import Delivery
from push.loop import OnProgress, Progress
from push.reader import Reader
from run import settings as job_settings
from desk.ini import read_ini
from run.masking import secrets_of
from run.report import start_logging


class Unusable(Exception):
    """There is nothing to test with; the text says why."""


class DryRun(Delivery):
    """Prints each line instead of sending it."""

    def add(self, owner: int, lines: Iterable[Line], source: Source) -> Added:
        """Print the lines and acknowledge them."""
        count = 0
        with nobody_reading_ends():
            for line in lines:
                # As they would be sent, whatever encoding the terminal has.
                sys.stdout.buffer.write(line.text + b"\n")
                count += 1
        self._receipts.append(Receipt(Counter({owner: count})))
        return Added(count)


@contextmanager
def nobody_reading_ends() -> Iterator[None]:
    """Ends the process quietly where nobody reads its output any more, as behind `| head`."""
    try:
        yield
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)


INSIDE_ONLY = {
    "COS_ENDPOINT": (r"\bs3\.(direct|private)\.", "s3."),
    "IAM_ENDPOINT": (r"\bprivate\.(?:[a-z-]+\.)?iam\.", "iam."),
    "CLOUD_LOGS_ENDPOINT": (r"\.ingress\.private\.", ".ingress."),
}
"""Hosts that are reached from inside IBM Cloud only, and what stands for them outside."""


def reachable_from_desk(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with the public forms of all endpoints; says which it has swapped."""
    swapped = dict(environ)
    for name, (inside, outside) in INSIDE_ONLY.items():
        given = environ.get(name, "")
        swapped[name] = re.sub(inside, outside, given)
        if swapped[name] != given:
            # The whole value might hold a password.
            host = re.search(inside, given)
            assert host
            print(
                f"{name}: a host with {host[0]!r} can't be reached from a desk,"
                f" using {outside!r} in its place",
                file=sys.stderr,
            )
    return swapped


def newest_key(settings: job_settings.Settings, stop: Stop) -> str | None:
    """A flow log's key: the newest one on the first page of the listing. Raises Stopped."""
    reader = Reader(flowlog.open_store(settings, stop), stop)
    scope = lib.Scope(settings.prefix, settings.state_key, settings.shard)
    try:
        page = next(reader.pages(settings.prefix), [])
    finally:
        reader.close()
    return max((ref for ref in page if scope.holds(ref.key)), default=ObjectRef(0, "")).key


def as_event(environ: Mapping[str, str], key: str) -> dict[str, str]:
    """The environment as a subscription would set it for a new object."""
    event = {"bucket": environ.get("COS_BUCKET", ""), "key": key, "operation": "Object:Write"}
    return {**environ, "CE_DATA": json.dumps(event)}


def progress_bar() -> OnProgress | None:
    """A bar on a terminal, where tqdm is installed; else the job's own lines."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    bar = tqdm(unit=" objects", dynamic_ncols=True)

    def show(progress: Progress) -> None:
        bar.total = progress.total
        bar.update(progress.settled - bar.n)
        if progress.settled == progress.total:
            bar.close()

    return show


DRY_RUN = {
    # STATE must not claim that something was delivered.
    "FLOWLOG_MODE": "simple",
    # What a destination needs, so that the lines are those of this destination without it.
    "LOGDNA_ENDPOINT": "dry-run.invalid",
    "LOGDNA_INGESTION_KEY": "dry-run-key",
    "CLOUD_LOGS_ENDPOINT": "dry-run.invalid",
}
"""The settings that a dry run has in place of those in the ini file."""


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Run the real job with the settings of an ini file."
    )
    parser.add_argument("ini", type=Path, help="see test.ini.example")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--key", help="push this object, whatever the mode")
    what.add_argument("--all", action="store_true", help="push all objects, as a manual run would")
    parser.add_argument("--dry-run", action="store_true", help="print the lines, send nothing")
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, stop: Stop) -> dict[str, str]:
    """The job's environment. Raises Unusable and what the job itself would raise."""
    environ = reachable_from_desk(read_ini(arguments.ini)[0])
    if arguments.dry_run:
        environ |= DRY_RUN
        if environ.get("COS_HMAC_ACCESS_KEY_ID"):
            # The bucket needs no other credentials, and a destination that would is not asked.
            environ["APIKEY"] = environ.get("APIKEY") or "dry-run-key"
    if arguments.all:
        return environ
    key = arguments.key
    if not key:
        start_logging(job_settings.log_level_of(environ), secrets_of(environ))
        key = newest_key(job_settings.read_settings(environ), stop)
        if not key:
            raise Unusable("the bucket holds no flow log; look at COS_BUCKET and FLOWLOG_PREFIX")
        print(f"found {key}", file=sys.stderr)
    return as_event(environ, key)


def run(arguments: argparse.Namespace, stop: Stop) -> int:
    """Run the job; its exit code."""
    try:
        environ = prepare(arguments, stop)
    except (Unusable, job_settings.Unusable) as error:
        print(error, file=sys.stderr)
        return flowlog.UNUSABLE
    except (StoreError, ObjectError) as error:
        print(error, file=sys.stderr)
        return flowlog.NOT_DELIVERED
    except Stopped:
        print("stopped; nothing was sent", file=sys.stderr)
        return 128 + (stop.signal or 0)
    if not arguments.dry_run:
        return flowlog.run(environ, stop, on_progress=progress_bar(), named=not arguments.all)
    return flowlog.run(environ, stop, delivery=lambda settings, _: DryRun(settings.destination))


def main() -> None:
    """Run with the arguments of the command line, and end the process with the exit code."""
    stop = Stop()
    signal.signal(signal.SIGINT, lambda number, _: setattr(stop, "signal", number))
    code = run(parse_arguments(), stop)
    with nobody_reading_ends():
        sys.stdout.flush()
    # Not sys.exit: threads that still wait for the network must not hold up the end.
    os._exit(code)


if __name__ == "__main__":
    main()
