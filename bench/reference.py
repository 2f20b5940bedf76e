"""The comparable job of today, by its description: one object after another, nothing overlaps.

A listing; a HEAD for the time of every object, to sort by; then a GET for each one, and a POST for
every 100,000 characters of lines, uncompressed, each on a new connection.
"""

from __future__ import annotations

import gzip
import json
import os
import time
from typing import Any

import ibm_boto3
import requests
from ibm_botocore.client import Config

POST_CHARACTERS = 100_000


def main() -> None:
    """Push all objects of the bucket, or that of the event."""
    bucket = os.environ["COS_BUCKET"]
    cos = ibm_boto3.client(
        "s3",
        ibm_api_key_id=os.environ["APIKEY"],
        ibm_service_instance_id=os.environ["COS_CRN"],
        ibm_auth_endpoint=os.environ["IAM_ENDPOINT"] + "/identity/token",
        config=Config(signature_version="oauth"),
        endpoint_url=os.environ["COS_ENDPOINT"],
    )
    lines = Lines()
    if event := os.environ.get("CE_DATA"):
        push(cos, bucket, json.loads(event)["key"], lines)
    else:
        times = {}
        for page in cos.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", ()):
                head = cos.head_object(Bucket=bucket, Key=item["Key"])
                times[item["Key"]] = head["LastModified"]
        for key in sorted(times, key=lambda key: (times[key], key)):
            push(cos, bucket, key, lines)
    lines.post()


class Lines:
    """Lines that wait for their POST, as text."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = 0

    def add(self, line: str) -> None:
        """One more line; posts what there is when it is enough."""
        self._lines.append(line)
        self._size += len(line)
        if self._size >= POST_CHARACTERS:
            self.post()

    def post(self) -> None:
        """Post what there is."""
        if self._lines:
            post('{"lines":[' + ",".join(self._lines) + "]}")
        self._lines, self._size = [], 0


def push(cos: Any, bucket: str, key: str, lines: Lines) -> None:
    """Send the lines of one object."""
    body = cos.get_object(Bucket=bucket, Key=key)["Body"].read()
    document = json.loads(gzip.decompress(body))
    entries = document.pop("flow_logs")
    document.pop("number_of_flow_logs", None)
    for entry in entries:
        text = json.dumps({**document, **entry, "_app": "FLCE", "key": key}, separators=(",", ":"))
        level = "WARN" if entry.get("action") == "rejected" else "INFO"
        line = {"line": text, "level": level, "app": "FLCE", "hostname": "flowlogjob"}
        lines.add(json.dumps(line, separators=(",", ":")))


def post(body: str) -> None:
    """One request."""
    answer = requests.post(
        os.environ["LOGDNA_ENDPOINT"] + "/logs/ingest",
        params={"hostname": "flowlogjob", "now": str(int(time.time() * 1000))},
        data=body.encode(),
        headers={"Content-Type": "application/json"},
        auth=(os.environ["LOGDNA_INGESTION_KEY"], ""),
        timeout=60,
    )
    answer.raise_for_status()


if __name__ == "__main__":
    main()
