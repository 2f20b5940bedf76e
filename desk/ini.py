"""The ini file that the tester and the deployment share, and what the job gets of it."""

from __future__ import annotations

import configparser
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from run.settings import Unusable, read_settings

KEYS = frozenset({"APIKEY", "COS_HMAC_ACCESS_KEY_ID", "COS_HMAC_SECRET_ACCESS_KEY"})
"""Keys that authenticate the tester; a deployment uploads at most APIKEY."""

PROFILES = frozenset({"IAM_PROFILE_NAME", "IAM_PROFILE_ID"})

COS_HOST = re.compile(r"\bs3\.(?:private\.|direct\.)?([a-z0-9-]+)\.cloud-object-storage\.")
"""COS's host names; the group is the region."""


def read_ini(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Section [env], its names in upper case, and [deploy]; what is empty is left out.

    Raises Unusable.
    """
    # No interpolation: a key may hold a percent sign.
    ini = configparser.ConfigParser(interpolation=None)
    try:
        ini.read_string(path.read_text(encoding="utf-8-sig"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable([f"can't read {path}: {error}"]) from None
    except configparser.Error as error:
        # Its full text repeats the line, and with it perhaps a key.
        where = f", line {line}" if (line := getattr(error, "lineno", None)) else ""
        raise Unusable([f"{path}{where} is not in ini format ({type(error).__name__})"]) from None
    if not ini.has_section("env"):
        raise Unusable([f"{path} has no section [env]; see test.ini.example"])
    env = {name.upper(): text for name, text in ini["env"].items() if text}
    deploy = ini["deploy"] if ini.has_section("deploy") else {}
    if long := [name for name, text in [*env.items(), *deploy.items()] if "\n" in text]:
        # A line that begins with a space continues the value before it.
        raise Unusable([f"{path}: the value of {name} goes on in another line" for name in long])
    return env, {name: text for name, text in deploy.items() if text}


def in_the_cloud(env: Mapping[str, str], credentials: str, profile: str) -> dict[str, str]:
    """The job's variables in Code Engine; `credentials` is `profile` or `apikey`.

    `profile` is the trusted profile that the deployment makes, unless [env] names another.
    """
    kept = {"APIKEY"} if credentials == "apikey" else set()
    cloud = {name: text for name, text in env.items() if name not in KEYS - kept}
    # The direct endpoint is reached from inside IBM Cloud only, and is the near one there.
    direct = COS_HOST.sub(r"s3.direct.\1.cloud-object-storage.", env.get("COS_ENDPOINT", ""))
    cloud["COS_ENDPOINT"] = direct
    if not kept and not PROFILES & env.keys():
        cloud["IAM_PROFILE_NAME"] = profile
    return cloud


class _Noting(dict[str, str]):
    """Variables that note which of them are read."""

    read: frozenset[str] = frozenset()

    def get(self, name: str, default: Any = None) -> Any:
        self.read |= {name}
        return super().get(name, default)


def variables_read(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Those variables that the job reads, such as no key of another log service; and the faults."""
    noting = _Noting(environ)
    faults: list[str] = []
    try:
        read_settings(noting)
    except Unusable as unusable:
        faults = list(unusable.faults)
    read = {name: text for name, text in environ.items() if name in noting.read}
    faults += [f"{name} has the text of the example" for name in read if "put-your-" in read[name]]
    return read, faults
