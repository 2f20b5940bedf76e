"""The comparable job of today, by its description: one object after another, nothing overlaps.

A listing; a HEAD for the time of every object, to sort by; then for each one a GET, and a POST per
100,000 characters, uncompressed, each on a new connection.
"""

from __future__ import annotations

import gzip
import json
import os
import time

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
    if event := os.environ.get("CE_DATA"):
        push(cos, bucket, json.loads(event)["key"])
        return
    times = {}
    for page in cos.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page.get("Contents", ()):
            head = cos.head_object(Bucket=bucket, Key=item["Key"])
            times[item["Key"]] = head["LastModified"]
    for key in sorted(times, key=lambda key: (times[key], key)):
        push(cos, bucket, key)


def push(cos: object, bucket: str, key: str) -> None:
    """Send the lines of one object."""
    body = cos.get_object(Bucket=bucket, Key=key)["Body"].read()  # type: ignore[attr-defined]
    document = json.loads(gzip.decompress(body))
    entries = document.pop("flow_logs")
    document.pop("number_of_flow_logs", None)
    lines, size = [], 0
    for entry in entries:
        fields = {**document, **entry, "_app": "FLCE", "key": key}
        text = json.dumps(fields, separators=(",", ":"))
        if size + len(text) > POST_CHARACTERS:
            post(lines)
            lines, size = [], 0
        level = "WARN" if entry.get("action") == "rejected" else "INFO"
        lines.append({"line": text, "level": level, "app": "FLCE", "hostname": "flowlogjob"})
        size += len(text)
    if lines:
        post(lines)


def post(lines: list[dict[str, str]]) -> None:
    """One request."""
    answer = requests.post(
        os.environ["LOGDNA_ENDPOINT"] + "/logs/ingest",
        params={"hostname": "flowlogjob", "now": str(int(time.time() * 1000))},
        json={"lines": lines},
        auth=(os.environ["LOGDNA_INGESTION_KEY"], ""),
        timeout=60,
    )
    answer.raise_for_status()


if __name__ == "__main__":
    main()
