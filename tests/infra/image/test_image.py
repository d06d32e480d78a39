"""proxy/Dockerfile: what it says, and what comes of it when its steps are carried out without Docker.

Its build and run steps run in an empty folder: the same commands, copies, variables, compiler options and user, the
paths of the container within that folder, and a Python of this machine in place of the base image's, of the same
version where there is one. Only apt-get is left out; and where the tests do not run as root, all is done as the user
who runs them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from tests.infra.conftest import ROOT
from tests.infra.image.dockerfile import Instruction, Stage, parse, stages, variables
from tests.infra.image.interpreter import base_python, libraries

from tidegate_load.postgres import free_port

DOCKERFILE = ROOT / "proxy" / "Dockerfile"
APT = "apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*"


@pytest.fixture(scope="module")
def instructions() -> list[Instruction]:
    return parse(DOCKERFILE)


def last(instructions: list[Instruction], word: str) -> Instruction:
    return next(found for found in reversed(instructions) if found.word == word)


def test_hadolint_finds_nothing() -> None:
    paths = [str(path.relative_to(ROOT)) for path in (DOCKERFILE, ROOT / "loadtests/Dockerfile")]
    done = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), *paths], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_two_stages_from_one_slim_base_pinned_by_tag_and_by_digest_on_demand(instructions: list[Instruction]) -> None:
    build, final = stages(instructions)
    assert build[0].text == "python:${PYTHON_TAG}${PYTHON_DIGEST} AS build"
    assert final[0].text == "python:${PYTHON_TAG}${PYTHON_DIGEST}"
    arguments = [found.text for found in instructions if found.word == "ARG"][:2]
    assert arguments == ["PYTHON_TAG=3.13-slim-trixie", "PYTHON_DIGEST="]


def test_only_the_first_stage_needs_a_shell(instructions: list[Instruction]) -> None:
    build, final = stages(instructions)
    assert [found.text for found in build if found.word == "RUN" and not found.is_exec] == [APT]
    for instruction in final:
        if instruction.word in ("RUN", "ENTRYPOINT", "CMD"):
            assert instruction.is_exec, instruction
    assert last(final, "HEALTHCHECK").text.startswith("CMD [")


def test_nobody_in_particular_runs_it_and_sigterm_stops_it(instructions: list[Instruction]) -> None:
    final = stages(instructions)[1]
    assert last(final, "USER").text == "65532:65532"
    assert last(final, "STOPSIGNAL").text == "SIGTERM"
    # The user comes after the last step that writes.
    words = [found.word for found in final]
    assert words.index("USER") > max(index for index, word in enumerate(words) if word in ("RUN", "COPY"))


def test_labels_say_what_it_is(instructions: list[Instruction]) -> None:
    labels = variables(last(instructions, "LABEL"))
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert labels[f"org.opencontainers.image.{name}"]


def test_every_package_is_locked_by_hash_and_fits_what_the_project_asks_for() -> None:
    locked = {}
    for name in ("requirements.txt", "requirements-build.txt"):
        text = (ROOT / "proxy" / name).read_text().replace("\\\n", " ")
        for line in filter(lambda line: line and not line.startswith("#"), text.splitlines()):
            requirement, *hashes = line.split()
            assert hashes
            assert all(one.startswith("--hash=sha256:") for one in hashes)
            package, version = requirement.split("==")
            locked[package] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["optional-dependencies"]["proxy"], *project["build-system"]["requires"]]
    for text in wanted:
        asked = Requirement(text)
        name = asked.name.lower().replace("_", "-")
        assert name in locked, f"{name} is not locked: python proxy/lock_image.py"
        assert locked[name] in asked.specifier, f"{text} is locked at {locked[name]}: python proxy/lock_image.py"


def test_compose_runs_the_image_as_fargate_does() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    proxy = services["proxy"]
    assert proxy["build"] == {"context": ".", "dockerfile": "proxy/Dockerfile"}
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert all(port.startswith("127.0.0.1:") for port in proxy["ports"])


def test_the_proxy_accepts_composes_settings() -> None:
    from tidegate_proxy.settings import load_settings

    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    settings = load_settings(None, services["proxy"]["environment"])
    database = settings.databases[services["postgres"]["environment"]["POSTGRES_DB"]]
    assert database.host == "postgres"
    password = settings.users[services["postgres"]["environment"]["POSTGRES_USER"]].password
    assert password is not None
    assert password.get_secret_value() == services["postgres"]["environment"]["POSTGRES_PASSWORD"]


@dataclass(frozen=True)
class Image:
    """What the steps have made."""

    build: Stage
    final: Stage
    entrypoint: list[str]
    healthcheck: list[str]
    identity: Any
    """For subprocess: the user of the container, where the tests run as root and so can become another."""


@pytest.fixture(scope="module")
def image(instructions: list[Instruction]) -> Iterator[Image]:
    folder = Path(tempfile.mkdtemp(prefix="tidegate-image-"))
    folder.chmod(0o755)
    try:
        yield carry_out(instructions, folder)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
        shutil.rmtree(folder)


def carry_out(instructions: list[Instruction], folder: Path) -> Image:
    compiler = shutil.which("cc")
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP"))}
    environment |= {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "TMPDIR": str(folder)}
    python = base_python(DOCKERFILE.read_text(), folder)
    build = Stage(folder / "build", ROOT, python)
    final = Stage(folder / "final", ROOT, python, others={"build": build})
    build.environment |= libraries(python)
    final.environment |= libraries(python)
    for stage, steps in zip((build, final), stages(instructions), strict=True):
        stage.root.mkdir()
        for instruction in steps:
            stage.carry_out(instruction, environment)
            if compiler is None and stage.environment.get("TIDEGATE_PROXY_CORE") == "compiled":
                # The base image gets one from apt-get; a machine without one can still try all the rest.
                stage.environment["TIDEGATE_PROXY_CORE"] = "interpreted"
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(final.root)], check=True)
    steps = stages(instructions)[1]
    entrypoint = [final.argument(part) for part in last(steps, "ENTRYPOINT").arguments]
    user, group = map(int, final.user.split(":"))
    identity: Any = {"user": user, "group": group, "extra_groups": []} if os.geteuid() == 0 else {}
    return Image(
        build,
        final,
        entrypoint + last(steps, "CMD").arguments,
        [final.argument(part) for part in json.loads(last(steps, "HEALTHCHECK").text.removeprefix("CMD "))],
        identity,
    )


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def run(image: Image, command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd="/", env=image.final.environment | settings, capture_output=True, text=True, **image.identity
    )


def test_the_second_stage_has_wheels_only_and_no_build_tools(image: Image) -> None:
    packages = {path.name.partition("-")[0].lower() for path in image.final.root.rglob("*.dist-info")}
    assert {"tidegate", "uvloop", "pydantic"} <= packages
    assert not packages & {"pytest", "cython", "hypothesis"}
    # The bind mount is gone.
    assert {path.name for path in image.final.root.iterdir()} == {"opt"}


def test_what_was_compiled_was_tested_and_is_what_starts(image: Image) -> None:
    assert any("pytest" in command for command in image.build.commands)
    core = image.final.environment["TIDEGATE_PROXY_CORE"]
    done = run(image, [image.entrypoint[0], "--version"])
    assert done.stdout.endswith(f"({core} core)\n"), done.stderr
    assert core == ("compiled" if shutil.which("cc") else "interpreted")


def test_without_settings_it_says_what_is_missing(image: Image) -> None:
    done = run(image, image.entrypoint)
    assert done.returncode == 2
    assert "TIDEGATE_DATABASES__APP__HOST" in done.stderr


VERIFIES_BY = """
from tidegate_proxy.settings import load_settings
from tidegate_proxy.tls import authorities_of, server_side_context
import os, ssl
database = load_settings(None, os.environ).databases["app"]
context = server_side_context(database)
assert (database.tls, context.verify_mode, context.check_hostname) == ("verify-full", ssl.CERT_REQUIRED, True)
print(authorities_of(database), context.cert_store_stats()["x509_ca"])
"""


def test_rdss_authorities_are_in_it_and_are_what_a_server_of_rds_is_verified_by(image: Image) -> None:
    python = str(Path(image.entrypoint[0]).parent / "python")
    host = "shop.abc.eu-west-1.rds.amazonaws.com"
    done = run(image, [python, "-c", VERIFIES_BY], TIDEGATE_DATABASES__APP__HOST=host)
    assert done.returncode == 0, done.stderr
    path, count = done.stdout.split()
    assert Path(path).is_relative_to(image.final.root), "the image's own file, and not this tree's"
    bundle = (ROOT / "proxy/tidegate_proxy/roots/rds.pem").read_bytes()
    assert Path(path).read_bytes() == bundle
    assert int(count) == bundle.count(b"BEGIN CERTIFICATE") > 0


def effective_users(pid: int) -> set[int]:
    """Real, effective, saved and file system's user of a process."""
    (line,) = re.findall(r"^Uid:(.*)$", Path(f"/proc/{pid}/status").read_text(), flags=re.MULTILINE)
    return {int(user) for user in line.split()}


def test_it_serves_writes_nothing_and_stops_on_its_signal(image: Image, instructions: list[Instruction]) -> None:
    before = contents(image.final.root)
    http = free_port()
    settings = {
        "TIDEGATE_LISTEN_PORT": "0",
        "TIDEGATE_HTTP_PORT": str(http),
        "TIDEGATE_CHECK_TARGETS": "false",
        "TIDEGATE_DATABASES__APP__HOST": "127.0.0.1",
        "TIDEGATE_DATABASES__APP__TLS": "disable",
        "TIDEGATE_USERS__APP__PASSWORD": "app",
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            image.entrypoint,
            cwd="/",
            env=image.final.environment | settings,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            **image.identity,
        )
        try:
            healthy = False
            for _ in range(200):
                healthy = run(image, image.healthcheck, TIDEGATE_HTTP_PORT=str(http)).returncode == 0
                if healthy or process.poll() is not None:
                    break
            errors.seek(0)
            assert healthy, errors.read().decode()
            assert effective_users(process.pid) == {65532 if os.geteuid() == 0 else os.geteuid()}
            process.send_signal(signal.Signals[last(instructions, "STOPSIGNAL").text])
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            process.wait()
    assert contents(image.final.root) == before


def test_the_health_check_fails_where_nothing_answers(image: Image) -> None:
    done = run(image, image.healthcheck, TIDEGATE_HTTP_PORT=str(free_port()))
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert run(image, image.healthcheck).returncode == 2
