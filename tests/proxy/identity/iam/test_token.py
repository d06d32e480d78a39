"""Each rule for tokens refuses what breaks it, with a reason of its own, before anybody is asked."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate import auth
from tidegate.credentials import Credentials
from tidegate_load.sts.signature import Key, Refused, verify
from tidegate_proxy.identity.iam.presigned import MAX_TOKEN
from tidegate_proxy.identity.iam.rds import parse_rds_token
from tidegate_proxy.identity.iam.reasons import Reason, TokenError
from tidegate_proxy.identity.iam.token import PROXY_HEADER, parse_proxy_token
from tidegate_proxy.settings.regions import region

NOW = 1_790_000_000.0
REGION = region("eu-west-1")
KEY = Key("ASIAEXAMPLEEXAMPLE01", "secret", "arn:aws:sts::123456789012:assumed-role/shop/s", "session+/==token")
SIGNER = Credentials(KEY.access_key, KEY.secret_key, KEY.session_token)
TOKEN = auth.generate_token("shop-proxy", "eu-west-1", credentials=SIGNER, now=NOW)
URL = base64.urlsafe_b64decode(TOKEN.removeprefix("tidegate-v1.") + "==").decode()
RDS_TOKEN = auth.generate_rds_token("db.example", 5432, "orders", "eu-west-1", credentials=SIGNER, now=NOW)


def parse(token: bytes, now: float = NOW) -> None:
    parse_proxy_token(token, region="eu-west-1", hosts=REGION.sts_hosts, now=now)


def encoded(url: str) -> bytes:
    return b"tidegate-v1." + base64.urlsafe_b64encode(url.encode()).rstrip(b"=")


def reason_of(judge: Callable[[], object]) -> Reason:
    with pytest.raises(TokenError) as caught:
        judge()
    assert "secret" not in str(caught.value)
    assert "session" not in str(caught.value)
    return caught.value.reason


def replaced(name: str, value: str) -> str:
    """The URL with another value of a parameter."""
    changed, count = re.subn(rf"(?<=[?&]{name}=)[^&]*", value.replace("\\", r"\\"), URL)
    assert count == 1
    return changed


def without(name: str) -> str:
    changed, count = re.subn(rf"&{name}=[^&]*", "", URL)
    assert count == 1
    return changed


SCOPE = quote(f"{KEY.access_key}/20260921/eu-west-1/sts/aws4_request", safe="")
assert f"X-Amz-Credential={SCOPE}" in URL

URLS = {
    "not a URL": ("rubbish", Reason.NOT_HTTPS),
    "http": (URL.replace("https://", "http://"), Reason.NOT_HTTPS),
    "capital scheme": (URL.replace("https://", "HTTPS://"), Reason.NOT_HTTPS),
    "somebody else's host": (URL.replace("sts.eu-west-1", "sts.evil"), Reason.HOST),
    "host that only ends like STS": (URL.replace("https://sts", "https://evil.example/sts"), Reason.HOST),
    "host that only begins like STS": (URL.replace(".com/?", ".com.evil.example/?"), Reason.HOST),
    "another region's host": (URL.replace("sts.eu-west-1", "sts.eu-west-2"), Reason.HOST),
    "another partition's host": (URL.replace(".com/?", ".com.cn/?"), Reason.HOST),
    "the global host": (URL.replace("sts.eu-west-1.", "sts."), Reason.HOST),
    "another service of AWS": (URL.replace("https://sts.", "https://s3."), Reason.HOST),
    "a port": (URL.replace(".com/?", ".com:443/?"), Reason.HOST),
    "a user": (URL.replace("https://", "https://sts.eu-west-1.amazonaws.com@"), Reason.HOST),
    "capitals in the host": (URL.replace("sts.eu-west-1", "STS.eu-west-1"), Reason.HOST),
    "a backslash": (URL.replace("https://", "https://evil.example\\@"), Reason.HOST),
    "a path": (URL.replace("/?", "/path?"), Reason.PATH),
    "two slashes": (URL.replace("/?", "//?"), Reason.PATH),
    "no path": (URL.replace("/?", "?"), Reason.PATH),
    "no query": (URL.partition("?")[0], Reason.MALFORMED),
    "a fragment": (URL + "#x", Reason.MALFORMED),
    "an empty parameter": (URL + "&", Reason.MALFORMED),
    "a line break": (URL + "\r\nHost: evil.example", Reason.MALFORMED),
    "a plus sign": (replaced("Action", "GetCaller+Identity"), Reason.MALFORMED),
    "lower-case escapes": (URL.replace("%2F", "%2f"), Reason.MALFORMED),
    "half an escape": (replaced("Action", "%4"), Reason.MALFORMED),
    "no UTF-8": (replaced("Action", "%FF"), Reason.MALFORMED),
    "one parameter more": (URL + "&X=1", Reason.UNKNOWN_PARAMETER),
    "another spelling": (URL.replace("X-Amz-Date", "x-amz-date"), Reason.UNKNOWN_PARAMETER),
    "a parameter twice": (URL + "&Action=GetCallerIdentity", Reason.REPEATED_PARAMETER),
    "a parameter twice, in small letters": (URL + "&action=GetSessionToken", Reason.REPEATED_PARAMETER),
    "a parameter twice, escaped": (URL + "&%41ction=GetSessionToken", Reason.MALFORMED),
    "no version": (without("Version"), Reason.MISSING_PARAMETER),
    "no signature": (without("X-Amz-Signature"), Reason.MISSING_PARAMETER),
    "no expiry": (without("X-Amz-Expires"), Reason.MISSING_PARAMETER),
    "another action": (replaced("Action", "AssumeRole"), Reason.ACTION),
    "another action's case": (replaced("Action", "getcalleridentity"), Reason.ACTION),
    "another version": (replaced("Version", "2012-01-01"), Reason.VERSION),
    "another algorithm": (replaced("X-Amz-Algorithm", "AWS4-ECDSA-P256-SHA256"), Reason.ALGORITHM),
    "no header of ours": (replaced("X-Amz-SignedHeaders", "host"), Reason.SIGNED_HEADERS),
    "no host": (replaced("X-Amz-SignedHeaders", PROXY_HEADER), Reason.SIGNED_HEADERS),
    "one header more": (replaced("X-Amz-SignedHeaders", f"accept%3Bhost%3B{PROXY_HEADER}"), Reason.SIGNED_HEADERS),
    "a short signature": (replaced("X-Amz-Signature", "ab"), Reason.SIGNATURE),
    "capitals in the signature": (replaced("X-Amz-Signature", "A" * 64), Reason.SIGNATURE),
    "no scope": (replaced("X-Amz-Credential", KEY.access_key), Reason.CREDENTIAL),
    "a short access key": (replaced("X-Amz-Credential", SCOPE.replace(KEY.access_key, "AK")), Reason.CREDENTIAL),
    "another day": (replaced("X-Amz-Credential", SCOPE.replace("20260921", "20260920")), Reason.SCOPE),
    "another service": (replaced("X-Amz-Credential", SCOPE.replace("sts", "iam")), Reason.SCOPE),
    "another region": (replaced("X-Amz-Credential", SCOPE.replace("eu-west-1", "eu-west-2")), Reason.SCOPE),
    "no date": (replaced("X-Amz-Date", "now"), Reason.DATE),
    "a date that there is not": (replaced("X-Amz-Date", "20260931T000000Z"), Reason.DATE),
    "digits that are none": (replaced("X-Amz-Date", quote("\u0662" * 8) + "T000000Z"), Reason.DATE),
    "for ever": (replaced("X-Amz-Expires", "901"), Reason.LIFETIME),
    "for no time": (replaced("X-Amz-Expires", "0"), Reason.LIFETIME),
    "for less than no time": (replaced("X-Amz-Expires", "-1"), Reason.LIFETIME),
    "for a fraction": (replaced("X-Amz-Expires", "1.5"), Reason.LIFETIME),
    "a space in the session's token": (replaced("X-Amz-Security-Token", "a%20b"), Reason.MALFORMED),
}


@pytest.mark.parametrize(("url", "reason"), URLS.values(), ids=URLS)
def test_a_url_that_breaks_a_rule_is_refused_for_its_own_reason(url: str, reason: Reason) -> None:
    assert reason_of(lambda: parse(encoded(url))) is reason


PASSWORDS = {
    "a password": (b"hunter2", Reason.NO_TOKEN),
    "another form's token": (TOKEN.replace("-v1", "-v2").encode(), Reason.NO_TOKEN),
    "the prefix alone": (b"tidegate-v1.", Reason.ENCODING),
    "padding": (encoded("https://x") + b"==", Reason.ENCODING),
    "the other base64": (b"tidegate-v1.+/+/", Reason.ENCODING),
    "one character too many": (b"tidegate-v1.aaaaa", Reason.ENCODING),
    "bits that mean nothing": (b"tidegate-v1.aHR", Reason.ENCODING),
    "no ASCII": (encoded("https://é"), Reason.ENCODING),
    "no text": (b"tidegate-v1.\xff", Reason.ENCODING),
    "too much": (b"tidegate-v1." + b"a" * MAX_TOKEN, Reason.TOO_LONG),
}


@pytest.mark.parametrize(("password", "reason"), PASSWORDS.values(), ids=PASSWORDS)
def test_what_is_no_token_is_refused_for_its_own_reason(password: bytes, reason: Reason) -> None:
    assert reason_of(lambda: parse(password)) is reason


def test_a_token_is_good_from_its_date_to_its_end() -> None:
    for age in (-300, -1, 0, 899):
        parse(TOKEN.encode(), NOW + age)
    assert reason_of(lambda: parse(TOKEN.encode(), NOW + 900)) is Reason.EXPIRED
    assert reason_of(lambda: parse(TOKEN.encode(), NOW - 301)) is Reason.FROM_THE_FUTURE
    short = auth.generate_token("shop-proxy", "eu-west-1", credentials=SIGNER, expires=60, now=NOW).encode()
    assert reason_of(lambda: parse(short, NOW + 60)) is Reason.EXPIRED


@pytest.mark.parametrize("name", ["eu-west-1", "us-east-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1"])
def test_the_layers_tokens_are_read_in_every_partition(name: str) -> None:
    token = auth.generate_token("x", name, credentials=SIGNER, now=NOW).encode()
    found = parse_proxy_token(token, region=name, hosts=region(name).sts_hosts, now=NOW)
    assert found.host == region(name).sts_hosts[0]
    assert found.expires_at == NOW + 900


@pytest.mark.parametrize("host", ["sts-fips.eu-west-1.amazonaws.com", "sts.eu-west-1.api.aws"])
def test_every_name_of_the_regions_sts_will_do(host: str) -> None:
    parse(encoded(URL.replace("sts.eu-west-1.amazonaws.com", host)))


def headers() -> dict[str, str]:
    return {"host": REGION.sts_hosts[0], PROXY_HEADER: "shop-proxy"}


@settings(max_examples=400, deadline=None)
@given(position=st.integers(0, len(TOKEN) - 1), byte=st.integers(0, 255))
def test_no_single_byte_can_be_changed(position: int, byte: int) -> None:
    changed = bytearray(TOKEN.encode())
    if changed[position] == byte:
        return
    changed[position] = byte
    try:
        found = parse_proxy_token(bytes(changed), region="eu-west-1", hosts=REGION.sts_hosts, now=NOW)
    except TokenError:
        return
    with pytest.raises(Refused):
        verify(found.query, headers() | {"host": found.host}, {KEY.access_key: KEY}, NOW)


def test_what_is_sent_to_sts_is_what_was_signed() -> None:
    found = parse_proxy_token(TOKEN.encode(), region="eu-west-1", hosts=REGION.sts_hosts, now=NOW)
    assert verify(found.query, headers(), {KEY.access_key: KEY}, NOW) is KEY
    assert found.query not in repr(found)


# -- tokens for RDS ------------------------------------------------------------------------------------------------


def parse_rds(token: str, now: float = NOW) -> None:
    parse_rds_token(token.encode(), user="orders", endpoints=["db.example:5432"], now=now)


def test_boto3s_tokens_for_rds_are_read() -> None:
    parse_rds(RDS_TOKEN)
    for age, reason in ((900, Reason.EXPIRED), (-301, Reason.FROM_THE_FUTURE)):
        assert reason_of(lambda age=age: parse_rds(RDS_TOKEN, NOW + age)) is reason  # type: ignore[misc]


RDS = {
    "a password": ("hunter2", Reason.NO_TOKEN),
    "a URL": ("https://" + RDS_TOKEN, Reason.NO_TOKEN),
    "another database": (RDS_TOKEN.replace("db.example", "db2.example"), Reason.HOST),
    "another port": (RDS_TOKEN.replace(":5432", ":5433"), Reason.HOST),
    "another action": (RDS_TOKEN.replace("Action=connect", "Action=GetCallerIdentity"), Reason.ACTION),
    "another user": (RDS_TOKEN.replace("DBUser=orders", "DBUser=admin"), Reason.USER),
    "another service": (RDS_TOKEN.replace("rds-db", "sts"), Reason.SCOPE),
    "one parameter more": (RDS_TOKEN + "&x=1", Reason.UNKNOWN_PARAMETER),
    "for longer": (RDS_TOKEN.replace("Expires=900", "Expires=3600"), Reason.LIFETIME),
    "too much": (RDS_TOKEN + "x" * MAX_TOKEN, Reason.TOO_LONG),
}


@pytest.mark.parametrize(("token", "reason"), RDS.values(), ids=RDS)
def test_an_rds_token_that_breaks_a_rule_reaches_no_server(token: str, reason: Reason) -> None:
    assert reason_of(lambda: parse_rds(token)) is reason
