"""`tidegate token` prints what `tidegate.auth.generate_token` makes, and says what is missing."""

from __future__ import annotations

import base64
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from tidegate import auth
from tidegate.command import main
from tidegate.credentials import Credentials

KEYS = Credentials("AKIAEXAMPLEEXAMPLE01", "secret key", "session token")


@pytest.fixture(autouse=True)
def credentials(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(KEYS.token))


def parameters(token: str) -> dict[str, list[str]]:
    url = base64.urlsafe_b64decode(token.removeprefix("tidegate-v1.") + "==").decode()
    return parse_qs(urlsplit(url).query)


def test_it_prints_the_librarys_token_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_790_000_000.0)
    assert main(["token", "shop-proxy", "--region", "eu-west-1"]) == 0
    expected = auth.generate_token("shop-proxy", "eu-west-1", credentials=KEYS, now=1_790_000_000.0)
    assert capsys.readouterr() == (expected + "\n", "")


def test_identifier_and_region_come_from_the_environment_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_PROXY_ID", "shop-proxy")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert main(["token", "--expires", "60"]) == 0
    found = parameters(capsys.readouterr().out.strip())
    assert "/eu-central-1/sts/" in found["X-Amz-Credential"][0]
    assert found["X-Amz-Expires"] == ["60"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "COMMAND"),
        (["token"], "TIDEGATE_PROXY_ID"),
        (["token", "shop-proxy"], "AWS_REGION"),
        (["token", "shop-proxy", "--region", "Ireland"], "must be an AWS region"),
        (["token", "shop-proxy", "--region", "eu-west-1", "--expires", "soon"], "--expires"),
    ],
)
def test_wrong_usage_is_said_with_the_remedy(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_a_token_that_nobody_would_accept_is_not_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "shop-proxy", "--region", "eu-west-1", "--expires", "901"]) == 1
    assert capsys.readouterr() == ("", "tidegate: a token cannot be good for 901 seconds: at most 900\n")


def test_without_credentials_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert main(["token", "shop-proxy", "--region", "eu-west-1"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no AWS credentials" in err
