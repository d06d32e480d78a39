"""The zip: the same bytes each time, within its budget, and enough for a bare interpreter to serve invocations."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import stat
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from tests.loadtests.lambda_service.helpers import Invoked
from tests.support.postgres import Database

from tidegate_load.lambda_service import LambdaServiceProcess, client

LAYER = Path(__file__).parents[3] / "lambda_layer"
FUNCTIONS = Path(__file__).parent / "functions"
PYTHON = "{}.{}".format(*sys.version_info[:2])
ARCH = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]

# What Lambda's runtime itself has beside the interpreter.
RUNTIME = ("awslambdaric", "simplejson", "snapshot-restore-py")


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_layer", LAYER / "build_layer.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def layer(builder: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer for the interpreter and machine that run the tests."""
    built: Path = builder.build(ARCH, PYTHON, tmp_path_factory.mktemp("dist"))
    return built


def test_two_builds_give_the_same_bytes(builder: ModuleType, layer: Path, tmp_path: Path) -> None:
    mask = os.umask(0o077)
    try:
        again = builder.build(ARCH, PYTHON, tmp_path)
    finally:
        os.umask(mask)
    assert again.name == layer.name == f"tidegate-layer-py{PYTHON.replace('.', '')}-{ARCH}.zip"
    assert again.read_bytes() == layer.read_bytes()


def test_all_is_below_python_sorted_readable_by_anybody_and_without_leftovers(layer: Path) -> None:
    with zipfile.ZipFile(layer) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {name.split("/")[0] for name in names} == {"python"}
        assert not [name for name in names if "/bin/" in name or name.endswith((".pyi", "RECORD", "direct_url.json"))]
        assert {"python/tidegate/roots/eu-west-1.pem", "python/tidegate/LICENSE"} <= set(names)
        assert sum(info.file_size for info in archive.infolist()) <= 15 * 2**20
        for info in archive.infolist():
            mode = info.external_attr >> 16
            assert mode & stat.S_IROTH, info.filename
            assert not mode & stat.S_IWOTH, info.filename


def test_psycopg_says_its_version_without_looking_it_up(layer: Path) -> None:
    with zipfile.ZipFile(layer) as archive:
        for package in ("psycopg", "psycopg_binary"):
            [information] = {name.split("/")[1] for name in archive.namelist() if f"/{package}-" in name}
            namespace: dict[str, str] = {}
            exec(archive.read(f"python/{package}/version.py"), namespace)
            assert information == f"{package}-{namespace['__version__']}.dist-info"


def test_a_layer_over_its_budget_is_not_left_behind(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "BUDGET", 1_000_000)
    with pytest.raises(builder.BuildError, match="the budget is 1000000"):
        builder.build(ARCH, PYTHON, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arch", "python"), [("sparc", PYTHON), (ARCH, "2.7"), (ARCH, "python3"), (ARCH, "3.x")])
def test_what_lambda_does_not_have_is_refused(builder: ModuleType, tmp_path: Path, arch: str, python: str) -> None:
    with pytest.raises(builder.BuildError, match="name one of"):
        builder.build(arch, python, tmp_path)


def test_the_lock_has_a_wheel_for_each_architecture_and_python(builder: ModuleType) -> None:
    locked = builder.requirements("3.12", powertools=True)
    [binary] = [line for line in locked.splitlines() if line.startswith("psycopg-binary==")]
    assert binary.count("--hash=sha256:") >= len(builder.ARCHITECTURES) * len(builder.PYTHONS)
    assert "typing-extensions" in locked
    assert "typing-extensions" not in builder.requirements("3.13", powertools=False)
    assert "typing-extensions" in builder.requirements("3.13", powertools=True)
    assert "powertools" not in builder.requirements("3.13", powertools=False)


# -- as Lambda uses it --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opt(layer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt, read-only as in Lambda."""
    folder = tmp_path_factory.mktemp("opt")
    with zipfile.ZipFile(layer) as archive:
        archive.extractall(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555)
    return folder


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/var/runtime: AWS's runtime client and what it imports, and nothing else of this environment."""
    folder = tmp_path_factory.mktemp("runtime")
    for distribution in RUNTIME:
        for file in importlib.metadata.files(distribution) or ():
            target = folder / file.parts[0]
            if ".." not in file.parts and not target.exists() and file.parts[0] != "__pycache__":
                target.symlink_to(Path(str(file.locate())).parents[len(file.parts) - 1] / file.parts[0])
    return folder


@pytest.fixture
def service(opt: Path, runtime: Path, database: Database) -> Iterator[LambdaServiceProcess]:
    parameters = database.parameters
    environment = {
        "PYTHONPATH": f"{FUNCTIONS}:{opt / 'python'}:{runtime}",
        "PGHOST": str(parameters["host"]),
        "PGPORT": str(parameters["port"]),
        "PGDATABASE": database.name,
        "PGUSER": database.user,
        "PGPASSWORD": database.password,
        "PGSSLMODE": "disable",
    }
    # The interpreter below the virtual environment, which has none of its packages.
    interpreter = Path(os.path.realpath(sys.executable))
    with LambdaServiceProcess(
        {"served": f"{FUNCTIONS}:served.handler"}, env=environment, timeout=30, interpreter=interpreter
    ) as running:
        yield running


def test_a_bare_interpreter_serves_invocations_with_it(service: LambdaServiceProcess, opt: Path) -> None:
    boto = client(service.endpoint)
    answers = [
        Invoked(boto.invoke(FunctionName="served", Payload=f'{{"text": "{text}"}}')) for text in ("first", "second")
    ]
    boto.close()
    assert [answer.error for answer in answers] == [None, None], [answer.payload for answer in answers]
    first, second = (answer.payload for answer in answers)
    assert (first["answer"], second["answer"]) == ("first", "second")
    assert first["pid"] == second["pid"], "the connection of INIT serves both"
    assert first["implementation"] == "binary"
    assert all(file.startswith(str(opt)) for file in first["files"]), first["files"]
    assert sysconfig.get_path("purelib") not in first["path"]
