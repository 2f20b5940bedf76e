"""What is measured inside of a process: `python -m bench.inside WHAT ARGUMENTS...` prints JSON."""

from __future__ import annotations

import cProfile
import gzip
import json
import os
import pstats
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import lib
from bench.server import Keys
from bucket.fetch import Fetcher, Request
from bucket.store import Location, Store, authorization
from connections.iam import IAM, ApiKey, Tokens
from connections.retry import RetryPolicy
from push.decoder import decode
from run.settings import read_settings
from standins.flowlogs import flow_log_objects

PROFILED_GETS = 20
BATCH_BYTES = 2_000_000
DUMMY = {
    "COS_BUCKET": "b",
    "COS_ENDPOINT": "localhost",
    "COS_CRN": "crn:v1:x",
    "APIKEY": "an-api-key",
    "LOGDNA_ENDPOINT": "localhost",
    "LOGDNA_INGESTION_KEY": "an-ingestion-key",
    "CLOUD_LOGS_ENDPOINT": "localhost",
}
"""Settings of a run that never begins."""

DAY = datetime(2026, 11, 24, 10, tzinfo=UTC)


def floor(library: str, count: str, rows: str) -> dict[str, float]:
    """CPU seconds to unpack, parse, re-write and gzip (level 1) so many objects from memory."""
    loads, dumps = _json_of(library)
    bodies = [(item.key, item.body) for item in flow_log_objects(int(count), int(rows))]
    batch: list[bytes] = []
    size = 0
    started = time.process_time()
    for key, body in bodies:
        document = loads(gzip.decompress(body))
        entries = document.pop("flow_logs")
        for entry in entries:
            text = dumps({**document, **entry, "_app": "FLCE", "key": key})
            line = {"line": text.decode(), "level": "INFO", "app": "FLCE", "hostname": "flowlogjob"}
            batch.append(dumps(line))
            size += len(batch[-1])
            if size > BATCH_BYTES:
                gzip.compress(b",".join(batch), 1)
                batch, size = [], 0
    gzip.compress(b",".join(batch), 1)
    return {"cpu": time.process_time() - started}


def _json_of(library: str) -> tuple[Callable[[bytes], Any], Callable[[object], bytes]]:
    if library == "orjson":
        import orjson

        return orjson.loads, orjson.dumps
    encode = json.JSONEncoder(separators=(",", ":")).encode
    return json.loads, lambda value: encode(value).encode()


def gets(how: str, count: str) -> dict[str, float]:
    """CPU seconds and function calls of one GET; `how` is `fetch` or `sdk`.

    One after another, on a connection and with a token that are there already.
    """
    endpoint, bucket = os.environ["COS_ENDPOINT"], os.environ["COS_BUCKET"]
    iam = IAM(ApiKey(os.environ["APIKEY"]), os.environ["COS_CRN"], os.environ["IAM_ENDPOINT"])
    pages = Store(Location(endpoint, iam, bucket), RetryPolicy()).pages("")
    keys = [ref.key for page in pages for ref in page][: int(count)]
    get = _by_sdk(endpoint, iam, bucket) if how == "sdk" else _by_fetch(endpoint, iam, bucket)
    get(keys[0])
    started = time.process_time()
    size = sum(len(get(key)) for key in keys)
    cpu = (time.process_time() - started) / len(keys)
    profile = cProfile.Profile()
    with profile:
        for key in keys[:PROFILED_GETS]:
            get(key)
    calls = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return {"cpu": cpu, "calls": calls / len(keys[:PROFILED_GETS]), "bytes": size}


class _TokenManager:
    """The job's tokens as the SDK's client asks for them."""

    def __init__(self, tokens: Tokens) -> None:
        self.get_token = tokens.get_token

    def set_from_config(self, config: object) -> None:
        """The client offers its proxies."""


def _by_sdk(endpoint: str, iam: IAM, bucket: str) -> Callable[[str], bytes]:
    from ibm_botocore.config import Config
    from ibm_botocore.session import Session

    client = Session().create_client(
        "s3",
        endpoint_url=endpoint,
        config=Config(signature_version="oauth", s3={"addressing_style": "path"}),
        ibm_service_instance_id=iam.instance_crn,
        token_manager=_TokenManager(iam.tokens()),
        region_name="us-south",
    )
    return lambda key: bytes(client.get_object(Bucket=bucket, Key=key)["Body"].read())


def _by_fetch(endpoint: str, iam: IAM, bucket: str) -> Callable[[str], bytes]:
    fetcher = Fetcher(endpoint, bucket, authorization(endpoint, iam), 1, RetryPolicy())
    return lambda key: fetcher.ask(Request("GET", key, 1 << 30)).content


def shards(count: str, shares: str, sets: str) -> dict[str, list[float]]:
    """How even the shares of each set of keys are: (largest - smallest) / mean."""
    number, spreads = int(shares), []
    for number_of_set in range(int(sets)):
        newest = DAY + timedelta(minutes=7919 * number_of_set)
        keys = [item.key for item in flow_log_objects(int(count), 0, newest=newest)]
        held = [sum(lib.Shard(i, number).holds(key) for key in keys) for i in range(number)]
        if sum(held) != len(keys):
            raise AssertionError("the shares do not hold every key once")
        spreads.append((max(held) - min(held)) * number / len(keys))
    return {"spreads": spreads}


def plain_keys(count: str) -> dict[str, int]:
    """What so many keys are as text, in bytes: what a list of them would hold."""
    bucket = Keys(int(count))
    return {"bytes": len(bucket.key(0)) * len(bucket)}


def package(name: str, module: str) -> dict[str, float]:
    """Installed size in bytes, and seconds of the import beside what the job imports anyway."""
    paths = (Path(str(file.locate())) for file in distribution(name).files or ())
    size = sum(path.stat().st_size for path in paths if path.exists())
    # In an interpreter of its own: here it is loaded already.
    code = (
        "import dataclasses, datetime, enum, gzip, json, time, uuid; started = time.perf_counter();"
        f"import {module}; print(time.perf_counter() - started)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    return {"bytes": size, "import": float(printed)}


def line_bytes(destination: str, rows: str, choice: str) -> dict[str, float]:
    """Bytes of a line on average, uncompressed, as log services bill them."""
    settings = read_settings({**DUMMY, "LOG_DESTINATION": destination, **json.loads(choice)})
    (item,) = flow_log_objects(1, int(rows), newest=DAY)
    sizes = [line.size for line in lib.Lines(decode(item.body), item.key, settings.selection)]
    return {"bytes": sum(sizes) / max(len(sizes), 1)}


MEASURES: Mapping[str, Callable[..., Mapping[str, Any]]] = {
    "floor": floor,
    "gets": gets,
    "shards": shards,
    "plain-keys": plain_keys,
    "package": package,
    "line-bytes": line_bytes,
}

if __name__ == "__main__":
    print(json.dumps(MEASURES[sys.argv[1]](*sys.argv[2:])))
