"""Ticks of follow mode over many interfaces: `python -m bench.interfaces [INTERFACES [DAYS]]`.

The store makes keys as it is asked for them, and answers a LIST after 50 ms. Nothing is new but one
object in a thousand.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote
from urllib.request import urlopen
from xml.sax.saxutils import escape

from bench.measure import BUCKET, JOB, Process, Run
from bench.server import Connection
from bucket.listing import PageRequest
from standins.keyspace import Fleet, KeySpace

LIST_SECONDS = 0.05
STATE = "first_logged"
TICKS_A_DAY, HOURS_A_DAY = 288, 24
CLASS_A, CLASS_B = 0.005 / 1000, 0.0004 / 1000
"""USD for a PUT or LIST, and for a GET (IBM Cloud, Object Storage, Standard plan, regional)."""

Answered = tuple[int, list[tuple[str, str]], bytes]


class Services:
    """IAM, ingestion, and a store that holds keys and STATE."""

    def __init__(self, fleet: Fleet, late: bool) -> None:
        newest = fleet[-1]
        # All but the objects of the last second of the fleet's own order lie behind the mark.
        last = fleet[len(fleet) * 999 // 1000]
        mark = [newest.last_modified, last.key]
        late_mark = [int(time.time()) - 3600 * late, ""]
        fields = {"version": 1, "mode": "follow", "worker": None, "claim": "", "sequence": 1,
                  "mark": mark, "late_mark": late_mark, "parked": []}  # fmt: skip
        self._state = json.dumps(fields).encode()
        self._written = time.time()
        self._space = KeySpace(fleet)
        self._asked: Counter[str] = Counter()

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answered:
        """Status, headers and body for one request."""
        path, _, query_text = target.partition("?")
        query = {name: values[0] for name, values in parse_qs(query_text, True).items()}
        if path == "/identity/token":
            token = {"access_token": "t", "refresh_token": "r", "token_type": "Bearer",
                     "expires_in": 3600}  # fmt: skip
            return 200, [("Content-Type", "application/json")], json.dumps(token).encode()
        if method == "POST":
            return 200, [], b'{"status":"ok"}'
        if path == "/-/asked":
            return 200, [], json.dumps({**self._asked, "keys": self._space.told}).encode()
        self._asked["LIST" if query else method] += 1
        if query:
            await asyncio.sleep(LIST_SECONDS)
            return 200, [("Content-Type", "application/xml")], self._listing(query)
        if unquote(path.split("/", 2)[2]) == STATE:
            return self._state_answer(method, headers, body)
        content = gzip.compress(b'{"flow_logs":[{}]}')
        return 200, [("Last-Modified", formatdate(usegmt=True)), ("ETag", '"x"')], content

    def _state_answer(self, method: str, headers: Mapping[str, str], body: bytes) -> Answered:
        etag = f'"{hashlib.md5(self._state).hexdigest()}"'
        if method == "PUT":
            if headers.get("if-match") != etag:
                return 412, [], b"<Error><Code>PreconditionFailed</Code></Error>"
            self._state, self._written = body, time.time()
            etag = f'"{hashlib.md5(self._state).hexdigest()}"'
        written = formatdate(self._written, usegmt=True)
        told = [("ETag", etag), ("Last-Modified", written)]
        return 200, told, self._state if method == "GET" else b""

    def _listing(self, query: Mapping[str, str]) -> bytes:
        page = self._space.page(
            PageRequest(
                query["prefix"],
                query.get("start-after", ""),
                int(query.get("max-keys", "1000")),
                query.get("delimiter", ""),
                query.get("continuation-token", ""),
            )
        )
        parts = ["<ListBucketResult><EncodingType>url</EncodingType>"]
        parts += [
            f"<Contents><Key>{quote(ref.key)}</Key>"
            f"<LastModified>{time.strftime('%FT%T.000Z', time.gmtime(ref.last_modified))}"
            f'</LastModified><ETag>"x"</ETag><Size>{ref.size}</Size></Contents>'
            for ref in page.refs
        ]
        parts += [
            f"<CommonPrefixes><Prefix>{quote(one)}</Prefix></CommonPrefixes>"
            for one in page.folders
        ]
        if page.more is not None:
            token = f"<NextContinuationToken>{escape(page.more)}</NextContinuationToken>"
            parts.append(f"<IsTruncated>true</IsTruncated>{token}")
        return ("".join(parts) + "</ListBucketResult>").encode()


def serve(interfaces: int, days: int, late: bool, port: multiprocessing.Queue[int]) -> None:
    """Serve until the process is ended."""

    async def forever() -> None:
        services = Services(Fleet(interfaces, days, int(time.time())), late)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(services), "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def tick(interfaces: int, days: int, *, late: bool) -> tuple[Run, Counter[str]]:
    """One tick's run, and what it asked of the store."""
    said: multiprocessing.Queue[int] = multiprocessing.Queue()
    arguments = (interfaces, days, late, said)
    server = multiprocessing.Process(target=serve, args=arguments, daemon=True)
    server.start()
    url = f"http://127.0.0.1:{said.get()}"
    environ = {
        "COS_BUCKET": BUCKET, "COS_ENDPOINT": url, "COS_CRN": "crn:v1:a/1:2::",
        "APIKEY": "an-api-key", "IAM_ENDPOINT": url, "LOGDNA_ENDPOINT": url,
        "LOGDNA_INGESTION_KEY": "an-ingestion-key", "FLOWLOG_MODE": "follow",
    }  # fmt: skip
    run = Process(JOB, environ).finish()
    with urlopen(f"{url}/-/asked") as answer:
        asked = Counter(json.load(answer))
    server.terminate()
    return run, asked


def main() -> None:
    """Print what a tick takes, and a day of ticks."""
    interfaces, days = (
        int(text) for text in [*sys.argv[1:], *("10000", "90")[len(sys.argv) - 1 :]]
    )
    print(
        f"{interfaces} interfaces, {days} days: {interfaces * days * 288:,} objects in the bucket"
    )
    day = Counter[str]()
    for late, times in ((False, TICKS_A_DAY - HOURS_A_DAY), (True, HOURS_A_DAY)):
        run, asked = tick(interfaces, days, late=late)
        print(f"a tick{' that looks for late objects' if late else ''}: {run.wall:.1f} s", end=" ")
        print(f"({run.cpu:.1f} s CPU), {run.peak:.0f} MiB, asks {dict(asked)},", end=" ")
        print(f"finds {run.summary['objects']} new objects")
        for name in ("LIST", "PUT", "GET"):
            day[name] += times * (asked[name] - (run.summary["objects"] if name == "GET" else 0))
    cost = (day["LIST"] + day["PUT"]) * CLASS_A + day["GET"] * CLASS_B
    print(f"a day of {TICKS_A_DAY} ticks without anything new: {dict(day)}, {cost:.2f} USD")


if __name__ == "__main__":
    main()
