"""Where credentials come from, and who is never asked for them."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.lambda_layer.identity.services import Service, always

import tidegate
from tidegate.credentials import Credentials, load

ANSWER = {
    "AccessKeyId": "ASIACONTAINER",
    "SecretAccessKey": "container secret",
    "Token": "container token",
    "Expiration": "2030-01-02T03:04:05Z",
}


def test_lambdas_variables_are_taken_as_they_are() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    assert load(environment) == Credentials("ASIA", "secret", "token")
    environment["AWS_CREDENTIAL_EXPIRATION"] = "1970-01-01T00:02:03Z"
    assert load(environment).expires == 123


def test_the_container_endpoint_is_asked_with_its_token_as_under_snapstart() -> None:
    with Service(always(200, ANSWER)) as service:
        environment = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service.url}/2021-04-23/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "let me in",
        }
        found = load(environment)
    assert found == Credentials("ASIACONTAINER", "container secret", "container token", 1893553445.0)
    [(path, headers)] = service.requests
    assert path == "/2021-04-23/credentials"
    assert headers["authorization"] == "let me in"


def test_the_token_file_is_read_anew_and_goes_before_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with Service(always(200, ANSWER)) as service:
        environment = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "old",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file),
        }
        for text in ("first\n", "second"):
            file.write_text(text)
            load(environment)
    assert [headers["authorization"] for _, headers in service.requests] == ["first", "second"]


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "credentials.example", "127.0.0.1.example"])
def test_credentials_are_not_asked_for_in_the_clear_over_a_network(host: str) -> None:
    with pytest.raises(tidegate.PasswordUnavailable, match=host):
        load({"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://{host}/credentials"})


def test_an_authorization_that_would_smuggle_a_header_is_refused() -> None:
    with Service(always(200, ANSWER)) as service:
        environment = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "sesame\r\nX-Other: 1",
        }
        with pytest.raises(tidegate.PasswordUnavailable) as caught:
            load(environment)
    assert service.requests == []
    assert "sesame" not in str(caught.value)


def test_an_endpoint_that_is_not_ready_is_asked_again() -> None:
    answers = [(503, b""), (500, b"")]
    success = always(200, ANSWER)
    with Service(lambda path, headers: answers.pop() if answers else success(path, headers)) as service:
        assert load({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url}).access_key == "ASIACONTAINER"
    assert len(service.requests) == 3


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b"no"),
        (200, b"not json: hunter2"),
        (200, b'{"AccessKeyId": "hunter2"}'),
        (200, b"[]"),
        (200, b'"hunter2"'),
        (200, b"{" + b" " * 300_000 + b"}"),
        (302, b""),
    ],
)
def test_an_answer_without_credentials_names_the_endpoint_and_shows_nothing(status: int, body: bytes) -> None:
    with Service(always(status, body)) as service, pytest.raises(tidegate.PasswordUnavailable) as caught:
        load({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url})
    assert f"127.0.0.1:{service.port}" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_deadline_that_has_passed_asks_nobody() -> None:
    with Service(always(200, ANSWER)) as service, pytest.raises(tidegate.PasswordUnavailable, match="no time left"):
        load({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url}, time.monotonic() - 1)
    assert service.requests == []


def test_an_endpoint_that_answers_byte_by_byte_keeps_nobody_after_the_deadline() -> None:
    over = threading.Event()

    def trickle(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not over.wait(0.05):
                client.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=trickle, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(tidegate.PasswordUnavailable, match="container credentials endpoint had no answer in time"):
            load({"AWS_CONTAINER_CREDENTIALS_FULL_URI": url}, time.monotonic() + 1.5)
        over.set()
        thread.join()


def test_what_botocore_asks_keeps_nobody_after_the_deadline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A profile may name a program that gives credentials; botocore waits for it as long as it takes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    profile = tmp_path / "config"
    profile.write_text(f"[default]\ncredential_process = cat {pipe}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    with pytest.raises(tidegate.PasswordUnavailable, match=r"botocore.* had no answer in time"):
        load(deadline=time.monotonic() + 0.3)
    # The program ends, and with it the thread that was left alone.
    with pipe.open("w") as end:
        end.write("{}")
    for thread in threading.enumerate():
        if thread.name == "tidegate-call":
            thread.join(30)


def test_botocore_knows_further_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = from the file\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    assert load() == Credentials("AKIAPROFILE", "from the file")


def test_without_any_credentials_the_remedy_is_named() -> None:
    with pytest.raises(tidegate.PasswordUnavailable, match="give the function a role"):
        load()


def test_without_botocore_the_remedy_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(tidegate.PasswordUnavailable, match=r"botocore.*is not installed"):
        load()
    assert "AWS_ACCESS_KEY_ID" not in os.environ
