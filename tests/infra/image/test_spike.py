"""loadtests/Dockerfile: what it copies is what the spike needs, and its task's arguments are ones that it knows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.infra.conftest import ROOT
from tests.infra.image.dockerfile import Stage, parse, stages
from tests.infra.template import Assembly


def test_the_spike_starts_from_what_the_image_copies_with_the_tasks_arguments(
    tmp_path: Path, isolated: Assembly
) -> None:
    (steps,) = stages(parse(ROOT / "loadtests/Dockerfile"))
    image = Stage(tmp_path / "root", ROOT)
    for instruction in steps:
        if instruction.word in ("COPY", "ENV", "WORKDIR", "USER"):
            image.carry_out(instruction, {})
    assert image.user == "65532:65532"
    (entrypoint,) = [found.arguments for found in steps if found.word == "ENTRYPOINT"]
    container = isolated["load"].one("AWS::ECS::TaskDefinition")["ContainerDefinitions"][0]
    arguments = [isolated["load"].text(part) for part in container["Command"]]
    assert arguments[:3] == ["--target", "aws", "--function"]
    command = [sys.executable, "-m", *(part.replace("/spike", str(image.path("."))) for part in entrypoint), *arguments]
    # Nothing to log in with: that is what it is to complain of, and not of an argument or an import.
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(image.path(".")),
        "HOME": str(tmp_path),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert re.search(r"Unable to locate credentials: log in with", done.stderr), done.stderr


def test_what_the_image_installs_is_what_the_project_is_tested_with() -> None:
    import importlib.metadata

    text = (ROOT / "loadtests/Dockerfile").read_text()
    for name, version in re.findall(r'"([a-z0-9]+)==([\d.]+)"', text):
        assert importlib.metadata.version(name).split(".")[0] == version.split(".")[0], name
