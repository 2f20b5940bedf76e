"""Proxy and certificates apply to every connection; with the job as a process."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from connections.network import read_network
from standins.flowlogs import flow_log_object
from standins.http import Proxy
from tests.harness import Place, Result, event, services

ITEM = flow_log_object(1, 3, datetime(2026, 11, 24, 10, tzinfo=UTC))


@pytest.fixture(scope="module")
def company() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secured(company: trustme.CA) -> Iterator[Place]:
    """The services, with certificates of a private CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    company.issue_cert("127.0.0.1").configure_cert(context)
    with services() as place:
        for service in (place.iam, place.store, place.ingestion):
            service.secure(context)
        place.environ["COS_ENDPOINT"] = place.store.url
        place.environ["IAM_ENDPOINT"] = place.iam.url
        place.environ["LOGDNA_ENDPOINT"] = place.ingestion.url
        yield place


def bundle(company: trustme.CA, folder: Path) -> str:
    company.cert_pem.write_to_path(str(folder / "company.pem"))
    return str(folder / "company.pem")


def hashed(company: trustme.CA, folder: Path) -> str:
    """A directory of certificates, as `openssl rehash` makes it."""
    path = bundle(company, folder)
    asked = ["openssl", "x509", "-noout", "-hash", "-in", path]
    name = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (folder / "hashed").mkdir()
    company.cert_pem.write_to_path(str(folder / "hashed" / f"{name}.0"))
    return str(folder / "hashed")


def remember(place: Place, **settings: str) -> Result:
    """A run that needs all services, and STATE."""
    place.put(ITEM)
    return place.run(FLOWLOG_MODE="remember", CE_DATA=event(ITEM.key), **settings)


@pytest.mark.parametrize("make", [bundle, hashed])
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_companys_ca_is_trusted_everywhere(
    secured: Place, company: trustme.CA, tmp_path: Path, name: str, make: type
) -> None:
    result = remember(secured, **{name: make(company, tmp_path)})
    assert result.code == 0, result.log
    assert secured.received().total() == 3
    assert "PUT" in secured.store.operations(), "STATE was written"


def test_requests_ca_bundle_wins(secured: Place, company: trustme.CA, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    good = bundle(company, tmp_path)
    assert remember(secured, REQUESTS_CA_BUNDLE=good, SSL_CERT_FILE=str(other)).code == 0
    assert remember(secured, REQUESTS_CA_BUNDLE=str(other), SSL_CERT_FILE=good).code == 1


def test_a_certificate_that_can_not_be_verified_ends_the_run_at_once(secured: Place) -> None:
    result = remember(secured)
    assert result.code == 1
    assert "look at REQUESTS_CA_BUNDLE and SSL_CERT_FILE" in result.log
    assert "retrying in" not in result.log
    assert result.failed().keys() == {ITEM.key}


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bundle_that_does_not_exist_is_a_fault(place: Place, name: str) -> None:
    result = place.run(**{name: "/no/such/file.pem"})
    assert result.code == 2
    assert f"ERROR {name} " in result.log
    assert place.iam.requests == []


def test_a_proxy_applies_to_every_connection(
    secured: Place, company: trustme.CA, tmp_path: Path
) -> None:
    proxy = Proxy()
    ca = bundle(company, tmp_path)
    result = remember(secured, HTTPS_PROXY=proxy.url, SSL_CERT_FILE=ca)
    assert result.code == 0, result.log
    reached = {url.removeprefix("https://") for url in (
        secured.iam.url, secured.store.url, secured.ingestion.url)}  # fmt: skip
    assert set(proxy.tunnels) == reached
    requests = len(proxy.tunnels)
    assert (
        remember(secured, HTTPS_PROXY=proxy.url, NO_PROXY="127.0.0.1", SSL_CERT_FILE=ca).code == 0
    )
    assert len(proxy.tunnels) == requests, "a direct connection"


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"HTTPS_PROXY": "socks5://localhost:1"}, "HTTPS_PROXY"),
        ({"HTTPS_PROXY": "http://proxy:99999"}, "HTTPS_PROXY"),
        ({"https_proxy": "proxy:3128"}, ""),
        ({"SSL_CERT_FILE": __file__}, "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": ""}, ""),
    ],
)
def test_variables(variables: dict[str, str], fault: str) -> None:
    network, faults = read_network(variables)
    assert [text.split()[0] for text in faults] == ([fault] if fault else [])
    if variables.get("https_proxy"):
        assert network.proxies_for("https://a.b/c") == {"https": "http://proxy:3128"}
        assert network.proxies_for("http://a.b/c") == {}
