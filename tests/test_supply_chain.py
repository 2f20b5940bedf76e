"""What is installed: pinned with hashes, from one list, with known licences."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.audit import report
from tests.harness import PROJECT

LOCKS = (
    "requirements.txt",
    "requirements-build.txt",
    "tests/requirements.txt",
    "bench/requirements.txt",
)
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)(?: ; [^\\]+)? \\$")


def pins(lock: str) -> dict[str, str]:
    """Version by package; every line that isn't a pin is a hash or a comment."""
    found: dict[str, str] = {}
    hashes = 0
    for line in (PROJECT / lock).read_text().splitlines():
        if pin := PIN.match(line):
            assert not found or hashes, f"{list(found)[-1]} has no hash"
            found[pin[1]], hashes = pin[2], 0
        else:
            hashes += line.startswith("    --hash=sha256:")
            assert re.match(r" *#|    --hash=sha256:[0-9a-f]{64}", line), line
    assert found and hashes
    return found


def names(requirements: list[str]) -> set[str]:
    # A group that includes another one has a table for it.
    texts = [requirement for requirement in requirements if isinstance(requirement, str)]
    return {re.split(r"[^a-z0-9.-]", text)[0] for text in texts}


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_is_pinned_with_hashes(lock: str) -> None:
    assert pins(lock)


def test_the_locks_hold_what_the_one_list_names() -> None:
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    run, test = names(listed["project"]["dependencies"]), names(listed["dependency-groups"]["test"])
    assert run <= pins("requirements.txt").keys()
    assert run | test <= pins("tests/requirements.txt").keys()
    assert names(listed["dependency-groups"]["build"]) == pins("requirements-build.txt").keys()
    assert not test & pins("requirements.txt").keys(), "the image needs no test tools"


def test_what_is_tested_is_what_runs() -> None:
    assert pins("requirements.txt").items() <= pins("tests/requirements.txt").items()
    assert pins("tests/requirements.txt").items() <= pins("bench/requirements.txt").items()


def test_every_package_of_the_image_is_listed_with_its_licence() -> None:
    text = (PROJECT / "SECURITY.md").read_text()
    rows = dict(re.findall(r"^\| ([a-z0-9.-]+) \| ([0-9]\S*) \| \S.* \|$", text, re.MULTILINE))
    assert rows == pins("requirements.txt")


def test_an_audit_fails_on_what_is_known_and_says_what_could_not_be_asked() -> None:
    well = {"name": "a", "version": "1", "vulns": []}
    unknown = {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert report({"dependencies": [well, unknown]}) == (
        ["1 of 2 packages could be asked about"],
        0,
    )
    said, code = report({"dependencies": [well, bad]})
    assert code == 1
    assert said[0] == "c 2: CVE-1, fixed in 3"
