"""Tokens are, byte for byte, what botocore signs."""

from __future__ import annotations

import base64
import datetime
import itertools
from typing import Any
from unittest import mock

import botocore.auth
import botocore.session
import pytest
from botocore.credentials import Credentials as BotoCredentials
from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from botocore.signers import RequestSigner
from hypothesis import given, settings
from hypothesis import strategies as st

import tidegate
from tidegate import auth
from tidegate.credentials import Credentials

NOW = 1_790_000_000.0
EVENTS = HierarchicalEmitter()

KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
SESSION = KEYS._replace(token="IQoJb3JpZ2luX2VjE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ+/==&?%")
REGIONS = sorted(
    {
        region
        for partition in botocore.session.Session().get_available_partitions()
        for region in botocore.session.Session().get_available_regions("rds", partition)
    }
)


def botocore_url(
    credentials: Credentials, region: str, service: str, url: str, body: dict[str, str], headers: dict[str, str]
) -> str:
    signer = RequestSigner(
        ServiceId(service),
        region,
        service,
        "v4",
        BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token),
        EVENTS,
    )
    request: dict[str, Any] = {
        "url_path": "/",
        "query_string": "",
        "headers": headers,
        "body": body,
        "method": "GET",
        "url": url,
        "context": {},
    }
    moment = datetime.datetime.fromtimestamp(NOW, datetime.UTC).replace(tzinfo=None)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        signed: str = signer.generate_presigned_url(request, "connect", expires_in=900, region_name=region)
    return signed


def botocore_rds_token(host: str, port: int, user: str, region: str, credentials: Credentials) -> str:
    body = {"Action": "connect", "DBUser": user}
    return botocore_url(credentials, region, "rds-db", f"https://{host}:{port}/", body, {}).removeprefix("https://")


@pytest.mark.parametrize("region", REGIONS)
def test_rds_tokens_in_every_region(region: str) -> None:
    host = f"shop.cluster-c0ffee.{region}.rds.{auth.dns_suffix(region)}"
    for credentials, port in itertools.product((KEYS, SESSION), (5432, 6543)):
        ours = auth.generate_rds_token(host, port, "orders", region, credentials=credentials, now=NOW)
        assert ours == botocore_rds_token(host, port, "orders", region, credentials)


def test_the_rds_client_of_boto3_gives_the_same_token() -> None:
    client = botocore.session.Session().create_client(
        "rds",
        "eu-west-1",
        aws_access_key_id=SESSION.access_key,
        aws_secret_access_key=SESSION.secret_key,
        aws_session_token=SESSION.token,
    )
    moment = datetime.datetime.fromtimestamp(NOW, datetime.UTC).replace(tzinfo=None)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        theirs = client.generate_db_auth_token("db.example", 5432, "orders+reader@shop")
    client.close()
    user = "orders+reader@shop"
    assert auth.generate_rds_token("db.example", 5432, user, "eu-west-1", credentials=SESSION, now=NOW) == theirs


@settings(max_examples=150, deadline=None)
@given(
    user=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=63),
    port=st.integers(1, 65535).filter(lambda port: port not in (80, 443)),
    secret=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=60),
    token=st.none() | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=200),
)
def test_rds_tokens_of_any_user_port_and_credentials(user: str, port: int, secret: str, token: str | None) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret, token)
    ours = auth.generate_rds_token("db.example", port, user, "eu-west-1", credentials=credentials, now=NOW)
    assert ours == botocore_rds_token("db.example", port, user, "eu-west-1", credentials)


@pytest.mark.parametrize("region", REGIONS)
def test_tidegate_tokens_ask_the_sts_endpoint_of_their_region(region: str) -> None:
    endpoint = botocore.session.Session().create_client(
        "sts", region, aws_access_key_id="x", aws_secret_access_key="x", endpoint_url=None
    )
    url = endpoint.meta.endpoint_url + "/"
    body = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    for credentials in (KEYS, SESSION):
        theirs = botocore_url(credentials, region, "sts", url, body, {"x-tidegate-proxy-id": "shop-proxy"})
        ours = auth.generate_token("shop-proxy", region, credentials=credentials, now=NOW)
        prefix, encoded = ours.split(".")
        assert prefix == "tidegate-v1"
        assert "=" not in encoded
        assert base64.urlsafe_b64decode(encoded + "==").decode() == theirs
        assert "X-Amz-SignedHeaders=host%3Bx-tidegate-proxy-id" in theirs
    endpoint.close()


@given(endpoint=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255))
@settings(max_examples=100, deadline=None)
def test_a_tidegate_token_is_bound_to_any_identifier(endpoint: str) -> None:
    body = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    url = "https://sts.eu-west-1.amazonaws.com/"
    theirs = botocore_url(SESSION, "eu-west-1", "sts", url, body, {"x-tidegate-proxy-id": endpoint})
    ours = auth.generate_token(endpoint, "eu-west-1", credentials=SESSION, now=NOW)
    assert base64.urlsafe_b64decode(ours.removeprefix("tidegate-v1.") + "==").decode() == theirs


@pytest.mark.parametrize("endpoint", ["", "two words", "line\nbreak", "é", "x" * 256])
def test_an_identifier_that_no_header_can_carry_is_refused(endpoint: str) -> None:
    with pytest.raises(tidegate.ConfigurationError, match="identifier"):
        auth.generate_token(endpoint, "eu-west-1", credentials=KEYS)


@pytest.mark.parametrize("expires", [0, -1, 901])
def test_a_lifetime_that_nobody_accepts_is_refused(expires: int) -> None:
    with pytest.raises(tidegate.ConfigurationError, match="at most 900"):
        auth.generate_token("shop-proxy", "eu-west-1", credentials=KEYS, expires=expires)


def test_credentials_do_not_show_in_their_representation() -> None:
    assert SESSION.secret_key not in repr(SESSION)
    assert str(SESSION.token) not in f"{SESSION} {[SESSION]}"
