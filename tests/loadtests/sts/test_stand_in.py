"""The stand-in accepts what botocore signs, and nothing that differs from it by anything."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import botocore.session
import pytest
from botocore.model import ServiceId
from botocore.signers import RequestSigner

from tidegate_load.sts.server import StandInSts
from tidegate_load.sts.signature import Key, Refused, verify

KEY = Key("ASIAEXAMPLEEXAMPLE01", "secret", "arn:aws:sts::123456789012:assumed-role/shop/s", "session+/==")
HEADERS = {"host": "sts.eu-west-1.amazonaws.com", "x-tidegate-proxy-id": "shop-proxy"}


def signed(proxy_id: str = "shop-proxy", secret: str = KEY.secret_key) -> str:
    """The query of a presigned request, made by botocore."""
    session = botocore.session.Session()
    session.set_credentials(KEY.access_key, secret, KEY.session_token)
    signer = RequestSigner(
        ServiceId("sts"), "eu-west-1", "sts", "v4", session.get_credentials(), session.get_component("event_emitter")
    )
    url: str = signer.generate_presigned_url(
        {
            "method": "GET",
            "url": "https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
            "body": {},
            "headers": {"x-tidegate-proxy-id": proxy_id},
            "context": {},
        },
        "GetCallerIdentity",
        expires_in=900,
        region_name="eu-west-1",
    )
    return urlsplit(url).query


def judge(query: str, headers: dict[str, str] | None = None, later: float = 0.0) -> Key:
    return verify(query, HEADERS if headers is None else headers, {KEY.access_key: KEY}, time.time() + later)


def test_what_botocore_signs_is_accepted() -> None:
    assert judge(signed()) is KEY


@pytest.mark.parametrize(
    ("query", "headers", "later", "code"),
    [
        (lambda: signed(secret="other"), None, 0, "SignatureDoesNotMatch"),
        (lambda: signed(proxy_id="other"), None, 0, "SignatureDoesNotMatch"),
        (lambda: signed() + "&x=1", None, 0, "SignatureDoesNotMatch"),
        (lambda: signed().replace("2011-06-15", "2011-06-16"), None, 0, "SignatureDoesNotMatch"),
        (lambda: signed(), HEADERS | {"host": "sts.eu-west-2.amazonaws.com"}, 0, "SignatureDoesNotMatch"),
        (lambda: signed(), {"host": HEADERS["host"]}, 0, "SignatureDoesNotMatch"),
        (lambda: signed().replace(KEY.access_key, "ASIANOBODYNOBODY"), None, 0, "InvalidClientTokenId"),
        (lambda: signed().replace("X-Amz-Security-Token=", "X-Amz-Security-Token=x"), None, 0, "InvalidClientTokenId"),
        (lambda: signed().replace("X-Amz-Signature", "X"), None, 0, "IncompleteSignature"),
        (lambda: signed(), None, 901, "ExpiredToken"),
        (lambda: signed(), None, -400, "SignatureDoesNotMatch"),
    ],
)
def test_what_differs_is_refused(
    query: Callable[[], str], headers: dict[str, str] | None, later: float, code: str
) -> None:
    with pytest.raises(Refused) as caught:
        judge(query(), headers, later)
    assert caught.value.code == code


def get(url: str, query: str, accept: str) -> tuple[int, str]:
    request = urllib.request.Request(f"{url}/?{query}", headers=HEADERS | {"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_it_answers_in_json_and_xml(accept: str) -> None:
    with StandInSts([KEY]) as sts:
        status, text = get(sts.url, signed(), accept)
        assert (status, KEY.arn in text, text.startswith("{")) == (200, True, accept == "application/json")
        status, text = get(sts.url, signed(secret="other"), accept)
        assert (status, "SignatureDoesNotMatch" in text) == (403, True)
        sts.throttled = 1
        status, text = get(sts.url, signed(), accept)
        assert (status, "Throttling" in text) == (400, True)


def test_it_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    fields = {"access_key": KEY.access_key, "secret_key": KEY.secret_key, "arn": KEY.arn}
    keys.write_text(json.dumps([fields | {"session_token": KEY.session_token}]))
    command = [sys.executable, "-m", "tidegate_load.sts", str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert get(url, signed(), "*/*")[0] == 200
        finally:
            process.terminate()
    assert process.returncode == 0


def test_a_file_that_holds_no_keys_is_said_in_one_line(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text('[{"access": "x"}]')
    command = [sys.executable, "-m", "tidegate_load.sts", str(keys)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "keys.json" in done.stderr
    assert "Traceback" not in done.stderr
