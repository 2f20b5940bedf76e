"""`make audit`: asks for known vulnerabilities of what a lock file pins.

pip-audit alone takes "could not be asked" for either a crash or "none found".
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

COMMAND = ("-m", "pip_audit", "--disable-pip", "--require-hashes", "--format=json",
           "--progress-spinner=off", "--timeout=20", "--requirement")  # fmt: skip


def report(answer: Mapping[str, Any]) -> tuple[list[str], int]:
    """What to print of pip-audit's answer, and the exit code: 1 if a vulnerability is known."""
    packages = answer["dependencies"]
    asked = [package for package in packages if "vulns" in package]
    known = [
        f"{package['name']} {package['version']}: {vulnerability['id']},"
        f" fixed in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in asked
        for vulnerability in package["vulns"]
    ]
    said = [f"{len(asked)} of {len(packages)} packages could be asked about"]
    return known + said, int(bool(known))


def main() -> int:
    """Audit the lock file that the command line names; return the exit code."""
    done = subprocess.run(
        [sys.executable, *COMMAND, sys.argv[1]], capture_output=True, text=True, check=False
    )
    try:
        said, code = report(json.loads(done.stdout))
    except ValueError:
        if "ConnectionError" not in done.stderr and "Timeout" not in done.stderr:
            sys.exit(done.stderr)
        said, code = ["not audited: the vulnerability database can't be reached"], 0
    print("\n".join(said))
    return code


if __name__ == "__main__":
    sys.exit(main())
