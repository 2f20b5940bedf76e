"""Writes the dry runs of `up` into docs/deploy.md: python -m tests.deploy.dry_runs"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from standins import ibmcloud
from tests.harness import PROJECT

PAGE = PROJECT / "docs" / "deploy.md"
BLOCK = re.compile(r"(?s)(<!-- dry run of (\S+) -->\n).*?(<!-- end -->)")


def block(name: str) -> str:
    """An ini file of deploy/examples, and what `up --dry-run` prints for it in a new account."""
    ini = f"deploy/examples/{name}.ini"
    command = [sys.executable, "deploy/code_engine.py", "up", "--dry-run", "--ini", ini]
    with tempfile.TemporaryDirectory() as folder:
        environ = ibmcloud.install(Path(folder))
        done = subprocess.run(
            command, cwd=PROJECT, env=environ, capture_output=True, text=True, check=True
        )
    text = (PROJECT / ini).read_text().strip()
    call = f"$ python deploy/code_engine.py up --dry-run --ini {ini}"
    return f"```ini\n{text}\n```\n\n```console\n{call}\n{done.stdout.strip()}\n```\n"


def page_with_dry_runs() -> str:
    """The page as it must be."""
    return BLOCK.sub(lambda found: found[1] + block(found[2]) + found[3], PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page_with_dry_runs())
