"""The files around the job: image, workflows, changelog."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from run.report import VERSION
from standins.flowlogs import flow_log_objects
from tests.harness import PROJECT, Result, event, services

TOOLS = Path(sys.executable).parent
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))


def base_python() -> str:
    """The Python used in place of the base image's: this one, or one that all users can run."""
    like = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = Path(sys.executable).resolve()
    for path in (own, Path("/usr/local/bin") / like, Path("/usr/bin") / like):
        reached = path.exists() and all(parent.stat().st_mode & 0o001 for parent in path.parents)
        if reached and not subprocess.run([path, "-c", "import ensurepip"]).returncode:
            return str(path)
    return str(own)


BASE = base_python()
CAN_CHANGE_USER = os.geteuid() == 0 and all(
    parent.stat().st_mode & 0o001 for parent in Path(BASE).parents
)


def tool(name: str, *arguments: object) -> None:
    """Run a tool of the virtual environment, which must find nothing."""
    command = [str(TOOLS / name), *map(str, arguments)]
    checked = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# --- the image -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of a Dockerfile."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


def read_dockerfile(text: str) -> list[Step]:
    """The instructions in order; of the syntax only what this project uses."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def sent_to_builder(ignore: str) -> list[Path]:
    """The files that .dockerignore lets through, relative to the project.

    All but `*` is ignored, `!NAME` brings a file or a folder back, `**/NAME` ignores it anywhere.
    """
    lines = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and all(line.startswith(("!", "**/")) for line in lines[1:])
    wanted = [line[1:] for line in lines if line.startswith("!")]
    unwanted = {line.removeprefix("**/") for line in lines if line.startswith("**/")}
    files = [file for name in wanted for file in (PROJECT / name, *(PROJECT / name).rglob("*"))]
    sent = [file.relative_to(PROJECT) for file in files if file.is_file()]
    return [file for file in sent if unwanted.isdisjoint(file.parts)]


@dataclass(slots=True)
class Image:
    """A folder in place of an image: `/` is `root`, the base image is a virtual environment."""

    root: Path
    context: Path
    workdir: Path
    environ: dict[str, str] = field(default_factory=dict)
    uid: int = 0
    command: list[str] = field(default_factory=list)

    @property
    def python(self) -> Path:
        return self.root / "usr"

    def do(self, step: Step) -> None:
        """Carry out one instruction. An unknown one is an error."""
        match step.name:
            case "FROM":
                assert re.fullmatch(r"python:3\.\d+-slim(@sha256:\w+)?", step.text)
                subprocess.run([BASE, "-m", "venv", self.python], check=True)
            case "ENV":
                self.environ |= dict(word.split("=", 1) for word in step.words)
            case "WORKDIR":
                self.workdir = self.root / step.text.lstrip("/")
                self.workdir.mkdir(parents=True)
            case "COPY":
                *sources, target = step.words
                for source in sources:
                    if (self.context / source).is_dir():
                        shutil.copytree(
                            self.context / source, self.workdir / target, dirs_exist_ok=True
                        )
                    else:
                        shutil.copy(self.context / source, self.workdir / target)
            case "RUN":
                self.shell(step.text)
            case "USER":
                self.uid = int(step.text)
            case "CMD":
                self.command = json.loads(step.text)
            case _:
                raise AssertionError(f"unknown instruction: {step}")

    def shell(self, text: str) -> None:
        environ = {**os.environ, **self.variables()}
        # They are kept next to the virtual environment, so the network is needed only once.
        environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": downloads().as_uri()}
        done = subprocess.run(
            ["/bin/sh", "-c", text], cwd=self.workdir, env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def variables(self) -> dict[str, str]:
        return {**self.environ, "PATH": f"{self.python / 'bin'}:/usr/bin:/bin"}

    def run(self, environ: dict[str, str], uid: int) -> Result:
        """Run CMD as `docker run --user UID` would, where this test may change its user."""
        done = subprocess.run(
            ["/usr/bin/env", *self.command],
            cwd=self.workdir,
            env={**environ, **self.variables()},
            capture_output=True,
            text=True,
            timeout=60,
            user=uid if CAN_CHANGE_USER else None,
            group=uid if CAN_CHANGE_USER else None,
            extra_groups=[] if CAN_CHANGE_USER else None,
        )
        return Result(done.returncode, done.stderr, done.stdout)

    def files(self) -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in self.root.rglob("*")}


def downloads() -> Path:
    """What the lock files name, as it is on the registry: the Dockerfile compares the hashes."""
    locks = [PROJECT / name for name in ("requirements-build.txt", "requirements.txt")]
    name = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    folder = Path(sys.prefix) / "downloads" / name
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        for lock in locks:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes"]
            command += ["--no-build-isolation", "--use-pep517", "--dest", str(unfinished)]
            subprocess.run([*command, "-r", lock], check=True)
        unfinished.rename(folder)
    return folder


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The Dockerfile's own steps, done in order in a folder that any user may read."""
    steps = read_dockerfile((PROJECT / "Dockerfile").read_text())
    assert [step.name for step in steps][:1] + [step.name for step in steps][-2:] == [
        "FROM", "USER", "CMD",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        image = Image(folder / "root", folder / "context", folder / "root")
        image.context.mkdir()
        for file in sent_to_builder((PROJECT / ".dockerignore").read_text()):
            (image.context / file).parent.mkdir(exist_ok=True)
            shutil.copy(PROJECT / file, image.context / file)
            # As in a checkout that other users can't read.
            (image.context / file).chmod(0o600)
        for step in steps:
            image.do(step)
        yield image


@pytest.mark.parametrize("uid", [10001, 54321])
def test_the_image_pushes_as_any_user(image: Image, uid: int) -> None:
    assert image.uid == 10001, "not root by itself"
    if CAN_CHANGE_USER:
        who = replace(image, command=["python", "-c", "import os; print(os.getuid())"])
        assert who.run({}, uid).out == f"{uid}\n"
    before = image.files()
    with services() as place:
        items = list(flow_log_objects(5, 4))
        expected = place.put(*items)
        result = image.run(place.environ, uid)
        assert result.code == 0, result.log
        assert place.received() == expected
        assert result.summary["version"] == VERSION
        late = next(iter(flow_log_objects(1, 4, seed=9)))
        expected += place.put(late)
        assert image.run({**place.environ, "CE_DATA": event(late.key)}, uid).code == 0
        assert place.received() == expected
    assert image.files() == before, "the image may be read-only"


def test_the_image_holds_the_job_and_nothing_else(image: Image) -> None:
    files = {path.relative_to(image.workdir) for path in image.workdir.rglob("*.*")}
    compiled = {file for file in files if "__pycache__" in file.parts}
    assert files - compiled == set(sent_to_builder((PROJECT / ".dockerignore").read_text()))
    assert not any(file.name.startswith("test") for file in files)
    modules = {file.with_suffix("") for file in files - compiled if file.suffix == ".py"}
    assert modules == {file.parent.parent / file.name.split(".")[0] for file in compiled}


def test_hadolint() -> None:
    tool("hadolint", "Dockerfile")


# --- workflows -----------------------------------------------------------------------------------


def test_zizmor() -> None:
    # Strict: a file that it can't read would count as one without findings.
    persona = ("--persona", "auditor")
    tool("zizmor", "--offline", "--quiet", "--strict-collection", *persona, ".github")


def jobs_of(workflow: Path) -> dict[str, dict[str, Any]]:
    content: dict[str, Any] = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {}, "each job names what it needs"
    jobs: dict[str, dict[str, Any]] = content["jobs"]
    return jobs


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    jobs_of(workflow)
    used = re.findall(r"uses: +(\S+)(.*)", workflow.read_text())
    assert used
    for action, comment in used:
        if not action.startswith("./"):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), "Dependabot keeps the version here"


def test_the_image_is_published_after_the_tests() -> None:
    jobs = jobs_of(PROJECT / ".github" / "workflows" / "publish.yml")
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert jobs["image"]["needs"] == "test"
    assert jobs["image"]["permissions"] == {"contents": "read", "packages": "write"}
    (build,) = (
        step["with"]
        for step in jobs["image"]["steps"]
        if step.get("uses", "").startswith("docker/build-push-action@")
    )
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert (build["sbom"], build["provenance"]) == (True, "mode=max")


def test_the_tag_check_finds_the_version() -> None:
    (check,) = (
        step["run"]
        for step in jobs_of(PROJECT / ".github" / "workflows" / "publish.yml")["image"]["steps"]
        if "GITHUB_REF_NAME" in step.get("run", "")
    )
    for tag, code in ((f"v{VERSION}", 0), ("v0.0.1", 1), ("v", 1)):
        environ = {**os.environ, "GITHUB_REF_NAME": tag}
        assert subprocess.run(["bash", "-c", check], cwd=PROJECT, env=environ).returncode == code


def test_dependabot_watches_all_that_is_pinned() -> None:
    content = yaml.safe_load((PROJECT / ".github" / "dependabot.yml").read_text())
    assert {each["package-ecosystem"] for each in content["updates"]} == {
        "pip", "docker", "github-actions",
    }  # fmt: skip


# --- the changelog -------------------------------------------------------------------------------


def test_the_changelog_names_the_version() -> None:
    text = (PROJECT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", text, re.M)
    assert releases[0][0] == VERSION
    assert releases == sorted(releases, key=lambda each: each[1], reverse=True)
