"""The services of a tick of follow mode: `python -m bench.fleet_server INTERFACES DAYS LATE`.

The store makes keys as it is asked for them, and answers a LIST after 50 ms. Nothing is new, and
all was looked through for late objects just now, or with LATE 1 an hour ago.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

from bench.server import serve
from bucket.listing import PageRequest
from standins.authority import Authority
from standins.keyspace import Fleet, KeySpace

LIST_SECONDS = 0.05
STATE = "first_logged"

Answered = tuple[int, list[tuple[str, str]], bytes]


class Services:
    """IAM, ingestion, and a store that holds keys and STATE."""

    def __init__(self, fleet: Fleet, late: bool) -> None:
        mark = [fleet[-1].last_modified, fleet[-1].key]
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


def main() -> None:
    """Serve until the process ends; says where in a line of JSON."""
    interfaces, days, late = map(int, sys.argv[1:])
    services = Services(Fleet(interfaces, days, int(time.time())), bool(late))
    authority = Authority()

    def announce(port: int, tls_port: int) -> None:
        said = {"port": port, "tls_port": tls_port, "authority": authority.certificate}
        print(json.dumps(said), flush=True)

    asyncio.run(serve(services, authority.context(), announce))


if __name__ == "__main__":
    main()
