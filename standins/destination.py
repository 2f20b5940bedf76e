"""A log service by the value of LOG_DESTINATION, and the settings that lead to it."""

from __future__ import annotations

from standins.cloud_logs import CloudLogs
from standins.iam import IAM
from standins.ingestion import Ingestion, LogService


def log_service(
    destination: str, iam: IAM, key: str, **limits: int
) -> tuple[LogService, dict[str, str]]:
    """A stand-in of the destination, and what to set; `key` is LogDNA's ingestion key."""
    if destination == "cloud-logs":
        cloud_logs = CloudLogs(iam, **limits)
        return cloud_logs, {
            "LOG_DESTINATION": "cloud-logs",
            "CLOUD_LOGS_ENDPOINT": cloud_logs.url,
        }
    logdna = Ingestion(key, **limits)
    return logdna, {"LOGDNA_ENDPOINT": logdna.url, "LOGDNA_INGESTION_KEY": key}
