"""Tester for a person at a desk: runs the real job against the services named in an ini file.

    python test_flowlog_to_logdna.py test.ini [--key KEY | --keys FILE | --all] [--dry-run]
    python test_flowlog_to_logdna.py test.ini --report FILE.html
    python test_flowlog_to_logdna.py test.ini --status [--json] [--max-lag 30m]

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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import flowlog
import lib
from bucket.errors import ObjectError, StoreError
from bucket.listing import ObjectRef
from bucket.state import StateError
from connections.network import use_network
from connections.stop import Stop, Stopped
from desk import status
from desk.coverage import USUAL_DAYS
from desk.figures import Figures
from desk.ini import read_ini
from desk.keys import missing_sentence, read_named
from desk.look import Extent, Look
from desk.progress import listing_bar, push_bar
from desk.report import NoTemplates, write_report
from desk.sample import MOST_SAMPLED
from desk.status import parse_span
from destinations.base import Added, Destination, Line, Receipt, Source
from logdna_synchronous import Delivery
from push.reader import Reader
from run import settings as job_settings
from run.masking import secrets_of
from run.report import start_logging


class Unusable(Exception):
    """There is nothing to test with; the text says why."""


class DryRun(Delivery):
    """Prints each line instead of sending it."""

    def __init__(self, destination: Destination) -> None:
        super().__init__(destination)
        self.takes_blocks = False

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
    what.add_argument(
        "--keys",
        metavar="FILE",
        help="push these: keys a line, or what a saved log names (-: stdin)",
    )
    what.add_argument("--all", action="store_true", help="push all objects, as a manual run would")
    what.add_argument("--report", metavar="FILE", type=Path, help="write a page about the bucket")
    what.add_argument("--status", action="store_true", help="print what the bucket holds")
    parser.add_argument("--dry-run", action="store_true", help="print the lines, send nothing")
    parser.add_argument("--json", action="store_true", help="print the status for a machine")
    parser.add_argument(
        "--max-lag", metavar="SPAN", type=parse_span, help="exit 1 where the lag is over 30m, 2h, …"
    )
    arguments = parser.parse_args()
    if not arguments.status and (arguments.json or arguments.max_lag is not None):
        parser.error("--json and --max-lag go with --status")
    if arguments.dry_run and (arguments.status or arguments.report):
        parser.error("--dry-run goes with what is pushed")
    return arguments


def prepare(arguments: argparse.Namespace) -> dict[str, str]:
    """The job's environment, without an event. Raises settings.Unusable."""
    environ = reachable_from_desk(read_ini(arguments.ini)[0])
    environ |= use_network(environ)
    if arguments.dry_run:
        environ |= DRY_RUN
        if environ.get("COS_HMAC_ACCESS_KEY_ID"):
            # The bucket needs no other credentials, and a destination that would is not asked.
            environ["APIKEY"] = environ.get("APIKEY") or "dry-run-key"
    return environ


def checked(environ: Mapping[str, str]) -> job_settings.Settings:
    """The settings of an exchange that is no run, with its log begun. Raises Unusable."""
    start_logging(job_settings.log_level_of(environ), secrets_of(environ))
    return job_settings.read_settings(environ)


# --- what the tester does ------------------------------------------------------------------------


def push_one(arguments: argparse.Namespace, environ: dict[str, str], stop: Stop) -> int:
    """Push the object that is named, or the newest one. Raises Unusable, and as `newest_key`."""
    key = arguments.key
    if not key:
        key = newest_key(checked(environ), stop)
        if not key:
            raise Unusable("the bucket holds no flow log; look at COS_BUCKET and FLOWLOG_PREFIX")
        print(f"found {key}", file=sys.stderr)
    return push(arguments, as_event(environ, key), stop, lib.push_named)


def push_keys(arguments: argparse.Namespace, environ: dict[str, str], stop: Stop) -> int:
    """Push the objects that a file names. Raises Unusable."""
    settings = checked(environ)
    try:
        stdin = arguments.keys == "-"
        content = sys.stdin.buffer.read() if stdin else Path(arguments.keys).read_bytes()
        named = read_named(content.decode("utf-8-sig"), settings.prefix)
    except (OSError, ValueError) as error:
        raise Unusable(f"--keys {arguments.keys}: {error}") from None
    if named.missing:
        print(missing_sentence(named, settings.mode), file=sys.stderr)
    if settings.mode == "follow":
        print(FOLLOW_COMES_BY, file=sys.stderr)
    environ = {name: text for name, text in environ.items() if name not in ("CE_DATA", "CE_TYPE")}
    return push(arguments, environ, stop, lib.push_keys(named.keys))


FOLLOW_COMES_BY = (
    "FLOWLOG_MODE follow tries parked objects again, and goes on at its mark: what its next run"
    " finds of these objects is sent twice"
)


def push(
    arguments: argparse.Namespace,
    environ: dict[str, str],
    stop: Stop,
    doing: Callable[[str], lib.Mode] = lib.MODES.__getitem__,
) -> int:
    """Run the job; its exit code."""
    if not arguments.dry_run:
        return flowlog.run(environ, stop, on_progress=push_bar(), doing=doing)
    return flowlog.run(
        environ, stop, delivery=lambda settings, _: DryRun(settings.destination), doing=doing
    )


def look_at(arguments: argparse.Namespace, environ: dict[str, str], stop: Stop) -> int:
    """Write the report, or print the status. Raises Unusable, StoreError, StateError, Stopped."""
    look = Look(checked(environ), environ, stop)
    extent = status.EXTENT if arguments.status else Extent(USUAL_DAYS, MOST_SAMPLED)
    try:
        with listing_bar() as on_keys:
            figures = Figures.of(look.overview(extent, on_keys))
    finally:
        look.close()
    if arguments.report:
        try:
            write_report(figures, arguments.report)
        except (NoTemplates, OSError) as error:
            raise Unusable(str(error)) from None
        print(f"written to {arguments.report}", file=sys.stderr)
        return flowlog.OK
    with nobody_reading_ends():
        print(status.text_of(figures, for_machine=arguments.json))
    return judge(figures, arguments.max_lag)


def judge(figures: Figures, most_seconds: int | None) -> int:
    """The exit code of a status."""
    if most_seconds is None or (behind := status.is_behind(figures, most_seconds)) is False:
        return flowlog.OK
    print(status.lag_sentence(figures, most_seconds), file=sys.stderr)
    return flowlog.NOT_DELIVERED if behind else flowlog.UNUSABLE


def run(arguments: argparse.Namespace, stop: Stop) -> int:
    """Do what the command line says; the exit code."""
    try:
        environ = prepare(arguments)
        if arguments.report or arguments.status:
            return look_at(arguments, environ, stop)
        if arguments.keys:
            return push_keys(arguments, environ, stop)
        if arguments.all:
            return push(arguments, environ, stop)
        return push_one(arguments, environ, stop)
    except (Unusable, job_settings.Unusable) as error:
        print(error, file=sys.stderr)
        return flowlog.UNUSABLE
    except (StoreError, ObjectError, StateError) as error:
        print(error, file=sys.stderr)
        return flowlog.NOT_DELIVERED
    except Stopped:
        print("stopped; nothing was sent", file=sys.stderr)
        return 128 + (stop.signal or 0)


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
