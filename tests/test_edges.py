"""For any input from outside, a run ends with an exit code of the contract and names failures.

Each input is made from its number alone, so that a failure is met again by that number.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from desk.ini import read_ini
from run.settings import Unusable
from tests.harness import BUCKET, NIGHTLY, SECRETS, Result, event, settings_read
from tests.wire import CHANGED, ENVIRON, GOOD, KEY, LISTING, TOKEN, answer, part, wire

INPUTS = 100_000 if NIGHTLY else 3_000

Run = Callable[..., Result]

ODD = [
    "", " ", "0", "-1", "1", "1, 1", "1, 2", "9" * 12, "9" * 400, "1e9", "NaN", "\u0667", "\u00b2",
    "x" * 300, "x" * 70_000, "\0", "\x1b[2J", "\r", "\u2028", "\udcff", "\ud800", "%", "%zz", "%s",
    "..", "a..b", ".", "/", "\\", "'", '"', "{}", "[]", "null", "true", '"', "<a>", "&a;", "]]>",
    "Tue, 24 Nov 20261234567 10:00:00 GMT", "Tue, 24 Nov 2026", "24 Nov 0000 10:00:00 +9999",
    "2026-11-24", "0001-01-01T00:00:00+23:59", "99999-01-01", "chunked", "gzip", "deflate", "close",
    "http://localhost:9/", "https://user:pass-canary-word@host", "socks5h://localhost:1",
    "https://a..b", f"https://{'x' * 64}.example", "http://[::1", "http://[::1]:1", "https://host:0",
    "/does/not/exist", "/", "/etc/hostname", "logdna", "cloud-logs", "simple", "catch-up", "follow",
    CHANGED, BUCKET, KEY, "ibm_vpc_flowlogs_", "dev.knative.sources.ping", "36h", "7d",
    SECRETS["APIKEY"], TOKEN,
]  # fmt: skip
HEADERS = [
    "Content-Length", "Transfer-Encoding", "Content-Encoding", "Content-Type", "Date", "ETag",
    "Last-Modified", "Retry-After", "Location", "Connection", "Set-Cookie", "WWW-Authenticate", "",
]  # fmt: skip
STATUSES = [0, 100, 103, 200, 204, 206, 207, 301, 307, 400, 401, 403, 404, 408, 409, 412, 413,
            422, 425, 429, 500, 501, 503, 504, 599, 999]  # fmt: skip


def odd(chance: random.Random) -> bytes:
    return chance.choice(ODD).encode("utf-8", "replace")


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The bytes with a part cut out, doubled or replaced."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(content) + 1)
        end = min(len(content), at + chance.choice([0, 1, 1, 5, 50, 10_000]))
        new = chance.choice([b"", content[at:end] * 2, chance.randbytes(2), odd(chance)])
        content = content[:at] + new + content[end:]
    return content


def mutated_json(value: object, chance: random.Random) -> object:
    """The value with one part of it replaced by another, of any type."""
    if chance.random() < 0.3 or not isinstance(value, dict | list) or not value:
        return chance.choice([None, True, 0, -1, 1 << 70, 1.5, [], {}, [[]], *ODD[:50]])
    if isinstance(value, list):
        return [mutated_json(each, chance) for each in value]
    name = chance.choice([*value, "other"])
    return {**value, name: mutated_json(value.get(name), chance)}


def mutated_answer(good: bytes, request: bytes, chance: random.Random) -> bytes:
    """An answer with an unusual status, header or body, or only some bytes."""
    head, _, body = good.partition(b"\r\n\r\n")
    match chance.randrange(6):
        case 0:
            return mutated(good, chance)
        case 1:
            body = mutated(body, chance)
        case 2:
            # The request itself is returned, including credentials.
            return answer(chance.choice(STATUSES), request, Retry_After=chance.choice(["0", "x"]))
        case 3:
            if body[:1] in (b"{", b"["):
                body = json.dumps(mutated_json(json.loads(body), chance)).encode("utf-8", "replace")
            else:
                body = body.replace(b"2026", odd(chance))
    if chance.random() < 0.5:
        status = chance.choice(STATUSES)
        head = head.replace(b" 200 ", b" %03d " % status, 1)
    lines = head.split(b"\r\n")
    if chance.random() < 0.7:
        lines[1] = b"Content-Length: %d" % len(body)
    for _ in range(chance.choice([0, 1, 1, 2, 150])):
        name, value = chance.choice(HEADERS), chance.choice(ODD)
        lines.insert(chance.randint(1, len(lines)), f"{name}: {value}".encode("utf-8", "replace"))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def check(result: Result, number: int) -> None:
    """The property."""
    why = f"input {number}: {result.log[-3_000:]}"
    assert result.code in (0, 1, 2), why
    summary = json.loads(result.log.splitlines()[-1].removeprefix("summary "))
    assert "fault of this program" not in result.log and "Traceback" not in result.log, why
    if result.code == 1:
        assert summary["failed_total"] or "not delivered: all objects of bucket" in result.log, why
    for secret in (*SECRETS.values(), TOKEN, "pass-canary-word"):
        assert secret not in result.log, why
        assert base64.b64encode(secret.encode()).decode()[:-4] not in result.log, why
    assert result.log.replace("\n", "").isprintable(), why


def answers_with(edge: str, number: int) -> Callable[[int, bytes], bytes]:
    chance = random.Random(number)

    def answers(port: int, request: bytes) -> bytes:
        asked = part(port, request)
        good = GOOD[asked]
        return mutated_answer(good, request, chance) if asked == edge else good

    return answers


@pytest.mark.parametrize("edge", GOOD)
def test_any_answer(edge: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with wire(monkeypatch) as run:
        for number in range(INPUTS // 10):
            environ = dict(ENVIRON)
            if number % 2:
                environ["LOG_DESTINATION"] = "cloud-logs"
            if number % 3 and edge != "listing":
                environ["CE_DATA"] = event(KEY)
            environ["LOG"] = "INFO" if number % 5 else "DEBUG"
            answers = answers_with(edge, number)
            check(run(environ, answers, new_tokens=edge == "iam"), number)


def test_any_event(monkeypatch: pytest.MonkeyPatch) -> None:
    with wire(monkeypatch) as run:
        for number in range(INPUTS // 5):
            chance = random.Random(number)
            text = event(KEY)
            if chance.random() < 0.7:
                document = mutated_json(json.loads(text), chance)
                text = json.dumps(document, ensure_ascii=number % 2 == 0)
            else:
                text = mutated(text.encode(), chance).decode("utf-8", "surrogateescape")
            check(run({**ENVIRON, "CE_DATA": text}), number)


NETWORK = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY",
           "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")  # fmt: skip
MADE_UP = {"FLOWLOG_RETRY_SECONDS", "FLOWLOG_CONCURRENCY", "FLOWLOG_MODE"}
"""Not changed, so that a run stays short."""


def test_any_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted((settings_read() | {*NETWORK}) - MADE_UP)
    with wire(monkeypatch) as run:
        for number in range(INPUTS // 5):
            chance = random.Random(number)
            environ = {**ENVIRON, "CE_DATA": chance.choice(["", event(KEY)])}
            for name in chance.sample(names, chance.randint(1, 3)):
                value = mutated(environ.get(name, "").encode(), chance)
                text = value.decode("utf-8", "surrogateescape")
                environ[name] = chance.choice([chance.choice(ODD), text])
            check(run(environ), number)


def test_any_ini_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "[env]\n" + "".join(f"{name} = {value}\n" for name, value in ENVIRON.items())
    path = tmp_path / "test.ini"
    with wire(monkeypatch) as run:
        for number in range(INPUTS // 5):
            chance = random.Random(number)
            path.write_bytes(mutated(text.encode(), chance))
            try:
                environ, _ = read_ini(path)
            except Unusable as unusable:
                assert not any(secret in str(unusable) for secret in SECRETS.values())
                continue
            environ |= {name: ENVIRON[name] for name in MADE_UP & ENVIRON.keys()}
            environ["FLOWLOG_MODE"] = "simple"
            check(run(environ), number)


def test_good_answers_are_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the tests above would test nothing."""
    assert LISTING
    with wire(monkeypatch) as run:
        for destination in ("logdna", "cloud-logs"):
            for data in ("", event(KEY)):
                result = run({**ENVIRON, "LOG_DESTINATION": destination, "CE_DATA": data})
                assert result.code == 0, result.log
                assert result.summary["lines_delivered"] == 2
