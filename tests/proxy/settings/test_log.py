"""What a log line looks like, and who may be affected by it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.proxy.settings.conftest import SERVER, Load

from tidegate_proxy.log import setup_logging

Capture = pytest.CaptureFixture[str]
TIME = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The root logger is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_has_time_level_logger_and_message(load: Load, capsys: Capture) -> None:
    setup_logging(load(SERVER))
    logging.getLogger("tidegate_proxy.pool").info("borrowed %d", 3, extra={"database": "app"})
    assert re.fullmatch(f"{TIME} INFO tidegate_proxy.pool: borrowed 3\n", capsys.readouterr().err)


def test_a_client_cannot_write_log_lines_of_its_own(load: Load, capsys: Capture) -> None:
    setup_logging(load(SERVER))
    logging.getLogger("a").warning("user %s", "x\n2025 INFO forged\x1b[2J")
    text = capsys.readouterr().err
    assert text.endswith("WARNING a: user x\\n2025 INFO forged\\x1b[2J\n")
    assert text.count("\n") == 1


def test_json_is_one_object_a_line_with_the_extra_fields(load: Load, capsys: Capture) -> None:
    setup_logging(load('log_format = "json"\n' + SERVER))
    logging.getLogger("a").warning("line\nbreak", extra={"database": "app", "level": "forged", "n": 1})
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    record = json.loads(text)
    assert re.fullmatch(TIME, record.pop("ts"))
    assert record == {
        "level": "warning",
        "logger": "a",
        "message": "line\nbreak",
        "database": "app",
        "n": 1,
    }


def test_json_takes_any_extra_and_masks_secrets(load: Load, capsys: Capture) -> None:
    setup_logging(load('log_format = "json"\n' + SERVER))
    logging.getLogger("a").info("m", extra={"path": Path("/x"), "password": SecretStr("hunter2")})
    record = json.loads(capsys.readouterr().err)
    assert (record["path"], record["password"]) == ("/x", "**********")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_exception_brings_its_traceback(load: Load, capsys: Capture, log_format: str) -> None:
    setup_logging(load(f'log_format = "{log_format}"\n' + SERVER))
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logging.getLogger("a").exception("caught")
    text = capsys.readouterr().err
    traceback = json.loads(text)["exception"] if log_format == "json" else text
    assert "Traceback" in traceback
    assert traceback.rstrip().endswith("RuntimeError: broken")


def test_what_is_below_the_level_is_left_out(load: Load, capsys: Capture) -> None:
    setup_logging(load('log_level = "warning"\n' + SERVER))
    logging.getLogger("a").info("left out")
    logging.getLogger("a").warning("kept")
    text = capsys.readouterr().err
    assert text.endswith("WARNING a: kept\n")
    assert text.count("\n") == 1


def test_importing_the_proxy_leaves_an_embedding_programs_logging_alone() -> None:
    program = (
        "import logging\n"
        "import tidegate_proxy.cli, tidegate_proxy.log, tidegate_proxy.settings, tidegate_proxy.tls\n"
        "print(logging.getLogger().handlers, logging.getLogger().level)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[] 30\n", ran.stderr
