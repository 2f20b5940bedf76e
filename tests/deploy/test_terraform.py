"""The Terraform module: it parses, is formatted, and sets what the job reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest

from run.settings import read_settings
from tests.harness import PROJECT, settings_read

TERRAFORM = PROJECT / "deploy" / "terraform"

MODULE = sorted(TERRAFORM.glob("*.tf"))


def module_text() -> str:
    return "\n".join(path.read_text() for path in MODULE)


def blocks(kind: str) -> dict[str, dict[str, Any]]:
    """Blocks of one kind by their last label."""
    found: dict[str, dict[str, Any]] = {}
    for block in hcl2.loads(module_text()).get(kind, []):
        for name, body in block.items():
            found[name.strip('"')] = body
    return found


@pytest.mark.parametrize(
    "path", sorted(TERRAFORM.rglob("*.tf")), ids=lambda path: str(path.relative_to(TERRAFORM))
)
def test_terraform_parses(path: Path) -> None:
    assert hcl2.loads(path.read_text())


def test_every_variable_is_used_and_described() -> None:
    variables, text = blocks("variable"), module_text()
    assert variables
    used = set(re.findall(r"\bvar\.(\w+)", re.sub(r'(?ms)^variable ".*?^}$', "", text)))
    assert used == set(variables)
    for name, body in {**variables, **blocks("output")}.items():
        assert body.get("description"), name
    assert all(body.get("type") for body in variables.values())


def test_terraform_sets_only_what_the_job_reads() -> None:
    known = settings_read()
    text = re.sub(r"(?m)#.*$", "", module_text())
    names = set(re.findall(r"^\s+([A-Z][A-Z_]{2,})\s+=", text, re.M))
    lists = re.findall(r"contains\(\[([^\]]*)\], name\)", text, re.S)
    names |= set(re.findall(r'"([A-Z_]+)"', " ".join(lists)))
    assert {"IAM_PROFILE_NAME", "COS_BUCKET", "CLOUD_LOGS_ENDPOINT", "LOG"} <= names
    assert "APIKEY" not in names
    assert names <= known
    required = {"COS_BUCKET", "COS_ENDPOINT", "COS_CRN", "LOGDNA_ENDPOINT", "LOGDNA_INGESTION_KEY"}
    assert required <= names


def test_examples_give_only_variables_that_exist() -> None:
    variables = set(blocks("variable"))
    for path in (TERRAFORM / "examples").rglob("*.tf"):
        (module,) = hcl2.loads(path.read_text())["module"]
        (body,) = module.values()
        given = {name for name in body if not name.startswith("__")} - {"source"}
        assert given <= variables
        needed = {name for name, each in blocks("variable").items() if "default" not in each}
        assert needed <= given


terraform = shutil.which("terraform")
with_terraform = pytest.mark.skipif(not terraform, reason="there is no terraform")


@with_terraform
def test_terraform_format() -> None:
    command = [str(terraform), "fmt", "-check", "-recursive", "-diff", TERRAFORM]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def apply(folder: Path, **given: Any) -> tuple[str, str]:
    """What the module works out, and what Terraform says is wrong.

    The first locals and the variables alone: they need no provider once IDs are put in.
    """
    (first,) = re.findall(r"(?ms)^locals \{\n  cos_guid.*?^\}$", module_text())
    first = re.sub(r"ibm_\w+\.this(\[0\])?\.\w+", '"made"', first)
    shown = "output all {\n  value = nonsensitive({\n secrets = keys(local.secrets)\n"
    shown += " settings = local.settings\n roles = local.bucket_roles\n})\n}\n"
    (folder / "main.tf").write_text(f"{first}\n{shown}")
    shutil.copy(TERRAFORM / "variables.tf", folder)
    crn = f"crn:v1:bluemix:public:cloud-object-storage:global:a/1:{'1' * 36}::"
    variables = {"cos_crn": crn, "bucket": "b", "region": "us-south", "image": "x/y:1", **given}
    (folder / "terraform.tfvars.json").write_text(json.dumps(variables))
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "CHECKPOINT_DISABLE": "1"}
    wrong = ""
    for command in (["init"], ["apply", "-auto-approve"], ["output", "-json", "all"]):
        done = subprocess.run(
            [str(terraform), *command], cwd=folder, env=environ, capture_output=True, text=True
        )
        wrong += done.stderr
    return done.stdout, wrong


@with_terraform
@pytest.mark.parametrize(
    ("given", "secrets", "roles"),
    [
        (
            {"logdna_ingestion_key": "canary-key", "mode": "simple"},
            ["LOGDNA_INGESTION_KEY"],
            {"b": ["Content Reader"]},
        ),
        (
            {
                "destination": "cloud-logs",
                "cloud_logs_endpoint": f"https://{'0' * 36}.ingress.us-south.logs.cloud.ibm.com",
            },
            [],
            {"b": ["Content Reader", "Object Writer"]},
        ),
    ],
)
def test_the_settings_of_the_module(
    tmp_path: Path, given: dict[str, str], secrets: list[str], roles: dict[str, list[str]]
) -> None:
    said, wrong = apply(tmp_path, **given)
    assert wrong == ""
    found = json.loads(said)
    assert (found["secrets"], found["roles"]) == (secrets, roles)
    settings = read_settings({**found["settings"], **dict.fromkeys(secrets, "canary-key")})
    assert settings.endpoint.startswith("https://s3.direct.us-south.")


@with_terraform
def test_a_run_has_limits(tmp_path: Path) -> None:
    assert apply(tmp_path, run={"memory": "4G", "retry_limit": 0})[1] == ""
    for run in ({"memory": "4"}, {"retry_limit": 6}, {"max_execution_time": 86401}):
        assert "A run has a memory such as" in apply(tmp_path, run=run)[1]
