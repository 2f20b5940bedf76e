"""Proxy and certificates apply to every connection; with the job as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from connections.network import read_network
from standins.authority import Authority
from standins.flowlogs import flow_log_object
from standins.http import Proxy
from tests.harness import PROJECT, Place, Result, event, services

ITEM = flow_log_object(1, 3, datetime(2026, 11, 24, 10, tzinfo=UTC))


@pytest.fixture(scope="module")
def company() -> Authority:
    return Authority()


@pytest.fixture
def secured(company: Authority, tmp_path: Path) -> Iterator[Place]:
    """The services, with certificates of a private CA that the job does not know yet."""
    with services() as place:
        place.secure(company, tmp_path)
        del place.environ["SSL_CERT_FILE"]
        yield place


def bundle(company: Authority, folder: Path) -> str:
    (folder / "company.pem").write_text(company.certificate)
    return str(folder / "company.pem")


def hashed(company: Authority, folder: Path) -> str:
    """A directory of certificates, as `openssl rehash` makes it."""
    path = bundle(company, folder)
    asked = ["openssl", "x509", "-noout", "-hash", "-in", path]
    name = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (folder / "hashed").mkdir()
    (folder / "hashed" / f"{name}.0").write_text(company.certificate)
    return str(folder / "hashed")


def remember(place: Place, **settings: str) -> Result:
    """A run that needs all services, and STATE."""
    place.put(ITEM)
    return place.run(FLOWLOG_MODE="remember", CE_DATA=event(ITEM.key), **settings)


@pytest.mark.parametrize("make", [bundle, hashed])
@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_companys_ca_is_trusted_everywhere(
    secured: Place, company: Authority, tmp_path: Path, name: str, make: type
) -> None:
    result = remember(secured, **{name: make(company, tmp_path)})
    assert result.code == 0, result.log
    assert secured.received().total() == 3
    assert "PUT" in secured.store.operations(), "STATE was written"


def test_requests_ca_bundle_wins(secured: Place, company: Authority, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_text(Authority().certificate)
    good = bundle(company, tmp_path)
    assert remember(secured, REQUESTS_CA_BUNDLE=good, SSL_CERT_FILE=str(other)).code == 0
    assert remember(secured, REQUESTS_CA_BUNDLE=str(other), SSL_CERT_FILE=good).code == 1


def test_a_certificate_that_can_not_be_verified_ends_the_run_at_once(secured: Place) -> None:
    result = remember(secured)
    assert result.code == 1
    assert "look at REQUESTS_CA_BUNDLE and SSL_CERT_FILE" in result.log
    assert "retrying in" not in result.log
    assert result.failed().keys() == {ITEM.key}


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("iam", "look at REQUESTS_CA_BUNDLE and SSL_CERT_FILE"),
        ("store", "look at REQUESTS_CA_BUNDLE and SSL_CERT_FILE"),
        ("ingestion", "its TLS certificate could not be verified"),
    ],
)
@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_a_service_with_a_wrong_certificate_gets_nothing(
    place: Place, company: Authority, tmp_path: Path, service: str, said: str, wrong: str
) -> None:
    """Of each service, though the others have the right ones."""
    context = Authority().context() if wrong == "authority" else company.context("127.0.0.2")
    place.secure(company, tmp_path, {service: context})
    result = remember(place, FLOWLOG_RETRY_SECONDS="2")
    assert result.code == 1
    assert said in result.log
    assert result.failed().keys() == {ITEM.key}
    assert getattr(place, service).requests == []
    assert not place.received()


def test_a_log_service_that_does_not_talk_tls(place: Place) -> None:
    url = place.ingestion.url.replace("http:", "https:")
    result = remember(place, LOGDNA_ENDPOINT=url, FLOWLOG_RETRY_SECONDS="0.5")
    assert result.code == 1
    assert "no TLS connection could be made" in result.log
    assert result.failed().keys() == {ITEM.key}


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_bundle_that_does_not_exist_is_a_fault(place: Place, name: str) -> None:
    result = place.run(**{name: "/no/such/file.pem"})
    assert result.code == 2
    assert f"ERROR {name} " in result.log
    assert place.iam.requests == []


def test_a_proxy_applies_to_every_connection(
    secured: Place, company: Authority, tmp_path: Path
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


def test_the_tester_uses_the_settings_of_its_ini_file(
    secured: Place, company: Authority, tmp_path: Path
) -> None:
    """Though the environment of its process names others."""
    secured.put(ITEM)
    proxy = Proxy()
    ini = tmp_path / "test.ini"
    network = {"HTTPS_PROXY": proxy.url, "SSL_CERT_FILE": bundle(company, tmp_path)}
    settings = {**secured.environ, **network, "FLOWLOG_RETRY_SECONDS": "0.5"}
    del settings["PATH"]
    ini.write_text("[env]\n" + "".join(f"{name} = {settings[name]}\n" for name in settings))
    other = tmp_path / "other.pem"
    other.write_text(Authority().certificate)
    done = subprocess.run(
        [sys.executable, "test_flowlog_to_logdna.py", ini, "--all"],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=100,
        env={"https_proxy": "http://127.0.0.1:9", "REQUESTS_CA_BUNDLE": str(other)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert secured.received().total() == 3
    assert len(set(proxy.tunnels)) == 3


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
