"""Stand-ins of log services by LOG_DESTINATION, and the settings to use them."""

from __future__ import annotations

from standins.cloud_logs import CloudLogs
from standins.iam import IAM
from standins.ingestion import Ingestion, LogService
from standins.otlp import OTLP


def log_service(
    destination: str, iam: IAM, key: str, **limits: int
) -> tuple[LogService, dict[str, str]]:
    """A stand-in of the destination, and its settings; `key` is LogDNA's ingestion key.

    For OTLP it is the value of a header.
    """
    if destination == "cloud-logs":
        cloud_logs = CloudLogs(iam, **limits)
        return cloud_logs, {
            "LOG_DESTINATION": "cloud-logs",
            "CLOUD_LOGS_ENDPOINT": cloud_logs.url,
        }
    if destination == "otlp":
        otlp = OTLP({"api-key": key}, **limits)
        return otlp, {
            "LOG_DESTINATION": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": otlp.url,
            "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={key}",
        }
    logdna = Ingestion(key, **limits)
    return logdna, {"LOGDNA_ENDPOINT": logdna.url, "LOGDNA_INGESTION_KEY": key}
