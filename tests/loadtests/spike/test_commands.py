"""The command's options: bad input is one clear line and exit status 2; a broken step is one line and status 1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from tidegate_load.lambda_service import LambdaServiceProcess
from tidegate_load.spike.cli import main
from tidegate_load.spike.proxy_process import proxy_configuration
from tidegate_load.spike.recording import Recording
from tidegate_load.spike.report import raw_file
from tidegate_proxy.settings import load_settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--peak", "0"], "--peak"),
        (["demo", "--hold", "-1"], "--hold"),
        (["demo", "--pool-size", "100"], "--pool-size 100 leaves nothing of --max-connections 100"),
        (["run", "--function", "f"], "--endpoint-url"),
        (["run", "--function", "f", "--target", "azure"], "--target"),
        (["run", "--function", "f", "--target", "aws", "--name", "../x"], "--name"),
        (["run"], "--function"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_database_that_cannot_be_sampled_is_one_line(tmp_path: Path) -> None:
    arguments = ["run", "--function", "f", "--endpoint-url", "http://127.0.0.1:1", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, [*arguments, "--database", "host=127.0.0.1 port=1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("tidegate-spike: connection failed")
    assert result.stderr.count("\n") == 1


def test_a_single_run_is_recorded_and_reported(tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text("def handler(event, context): return {}")
    size = ["--peak", "5", "--ramp", "1", "--hold", "1", "--fall", "1", "--min-invocations", "10"]
    with LambdaServiceProcess({"f": f"{tmp_path}:function.handler"}) as service:
        where = ["--endpoint-url", service.endpoint, "--output", str(tmp_path / "reports")]
        result = CliRunner().invoke(main, ["run", "--function", "f", "--name", "mine", *where, *size])
    assert result.exit_code == 0, result.output
    recording = Recording.load(raw_file(tmp_path / "reports", "mine"))
    assert recording.failed == 0
    assert len(recording.invocations) >= 10
    for name in ("report.html", "report.png", "locust-mine.html"):
        assert (tmp_path / "reports" / name).stat().st_size > 0


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who has never logged in to AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("no_aws")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "aws"], "You must specify a region: name one with --region or AWS_REGION"),
        (["--target", "aws", "--region", "eu-central-1"], "Unable to locate credentials: log in with"),
        (["--endpoint-url", "nonsense"], "Invalid endpoint: nonsense: --endpoint-url is what"),
    ],
)
def test_a_run_that_can_call_nothing_says_what_is_missing(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["run", "--function", "f", "--output", str(tmp_path), *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("no_aws")
def test_a_run_against_aws_uses_the_shells_credentials_and_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "function.py").write_text("def handler(event, context): return {}")
    size = ["--peak", "5", "--ramp", "1", "--hold", "1", "--fall", "1", "--min-invocations", "10"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    with LambdaServiceProcess({"f": f"{tmp_path}:function.handler"}) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", service.endpoint)
        arguments = ["run", "--target", "aws", "--function", "f", "--region", "eu-central-1", *size]
        result = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "reports")])
        invoked = service.stats()["f"]["invocations"]
    assert result.exit_code == 0, result.output
    recording = Recording.load(raw_file(tmp_path / "reports", "run"))
    assert recording.failed == 0
    assert len(recording.invocations) == invoked >= 10
    assert recording.cold_starts > 0


def test_a_folder_that_cannot_be_written_names_the_option() -> None:
    result = CliRunner().invoke(main, ["demo", "--output", "/proc/x"])
    assert result.exit_code == 1
    assert result.stderr.startswith("tidegate-spike: --output /proc/x: nothing can be written there")
    assert result.stderr.count("\n") == 1


def test_the_proxys_file_is_one_that_the_proxy_reads(tmp_path: Path) -> None:
    server = {"host": "127.0.0.1", "port": 5432, "dbname": "my.db", "user": 'o"brien', "password": 'p"\\ä'}
    file = tmp_path / "proxy.toml"
    file.write_text(proxy_configuration(7, 2.5, server))
    settings = load_settings(file, {})
    assert settings.default_pool_size == 7
    assert settings.connection_borrow_timeout == 2.5
    assert settings.databases["my.db"].port == 5432
    password = settings.users['o"brien'].password
    assert password is not None
    assert password.get_secret_value() == 'p"\\ä'
