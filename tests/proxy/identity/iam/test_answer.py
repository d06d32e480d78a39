"""What STS says is read strictly: who signed, that the token is refused, or that nothing has been judged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_proxy.identity.iam.answer import TryAgain, read_answer
from tidegate_proxy.identity.iam.reasons import Reason, TokenError

ARN = "arn:aws:sts::123456789012:assumed-role/shop/orders"
FOUND = {"Account": "123456789012", "Arn": ARN, "UserId": "AROAX:orders"}
XMLNS = 'xmlns="https://sts.amazonaws.com/doc/2011-06-15/"'


def in_json(found: object) -> bytes:
    metadata = {"RequestId": "x"}
    result = {"GetCallerIdentityResult": found, "ResponseMetadata": metadata}
    return json.dumps({"GetCallerIdentityResponse": result}).encode()


def in_xml(inner: str, xmlns: str = XMLNS) -> bytes:
    return f"<GetCallerIdentityResponse {xmlns}>{inner}</GetCallerIdentityResponse>".encode()


def result(**found: str) -> str:
    fields = "".join(f"<{name}>{value}</{name}>" for name, value in found.items())
    return f"<GetCallerIdentityResult>{fields}</GetCallerIdentityResult>"


@pytest.mark.parametrize("body", [in_json(FOUND), in_xml(result(**FOUND)), b"\n " + in_json(FOUND)])
def test_who_signed_is_read_from_json_and_xml(body: bytes) -> None:
    found = read_answer(200, body)
    assert found.arn == ARN
    assert found.canonical == "arn:aws:iam::123456789012:role/shop"


BOMB = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'

NO_ANSWERS = {
    "nothing": b"",
    "a page": b"<html><body>Welcome</body></html>",
    "half of it": in_json(FOUND)[:-3],
    "no text": b"\xff\xfe",
    "a list": b"[]",
    "another shape": b'{"GetCallerIdentityResponse": []}',
    "deep": b"{" * 20_000,
    "nested": b'{"a":' * 20_000,
    "no ARN": in_json({"Account": "123456789012", "UserId": "x"}),
    "an empty ARN": in_json(FOUND | {"Arn": ""}),
    "no text as the ARN": in_json(FOUND | {"Arn": [ARN]}),
    "another account": in_json(FOUND | {"Account": "999999999999"}),
    "two ARNs": in_json(FOUND).replace(b'"Arn"', b'"Arn": "x", "Arn"'),
    "no ARN of a principal": in_json(FOUND | {"Arn": "arn:aws:s3:::bucket"}),
    "XML with declarations": BOMB + in_xml(result(**FOUND)),
    "XML with two results": in_xml(result(**FOUND) * 2),
    "XML with two ARNs": in_xml(result(**FOUND).replace("<Arn>", "<Arn>x</Arn><Arn>")),
    "XML of somebody else": in_xml(result(**FOUND), 'xmlns="https://evil.example/"'),
    "XML without a name space": in_xml(result(**FOUND), ""),
    "XML of another request": in_xml(result(**FOUND)).replace(b"GetCallerIdentity", b"GetSessionToken"),
}


@pytest.mark.parametrize("body", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_of_sts_lets_nobody_in(body: bytes) -> None:
    with pytest.raises(TokenError) as caught:
        read_answer(200, body)
    assert caught.value.reason is Reason.STS_ANSWER


@given(st.binary(max_size=300), st.sampled_from([200, 204, 302, 400, 403, 500]))
def test_no_rubbish_lets_anybody_in(body: bytes, status: int) -> None:
    with pytest.raises((TokenError, TryAgain)):
        read_answer(status, body)


@pytest.mark.parametrize("status", [201, 204, 301, 302, 307, 404])
def test_who_signed_counts_with_status_200_only(status: int) -> None:
    with pytest.raises(TokenError) as caught:
        read_answer(status, in_json(FOUND))
    assert caught.value.reason is Reason.STS_ANSWER


def error_in_xml(code: str) -> bytes:
    return f"<ErrorResponse {XMLNS}><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>".encode()


def error_in_json(code: str) -> bytes:
    return json.dumps({"Error": {"Code": code, "Message": "m", "Type": "Sender"}, "RequestId": "r"}).encode()


@pytest.mark.parametrize("error", [error_in_json, error_in_xml])
@pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidClientTokenId", "ExpiredToken", "AccessDenied"])
def test_a_refusal_is_final_and_named(error: object, code: str) -> None:
    assert callable(error)
    with pytest.raises(TokenError, match=code) as caught:
        read_answer(403, error(code))
    assert caught.value.reason is Reason.REFUSED_BY_STS


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error_in_json("Throttling")),
        (400, error_in_xml("Throttling")),
        (429, b""),
        (503, error_in_xml("SlowDown")),
    ],
)
def test_throttling_is_told_from_other_failures(status: int, body: bytes) -> None:
    with pytest.raises(TryAgain) as caught:
        read_answer(status, body)
    assert caught.value.throttled


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failure_of_sts_may_be_tried_again(status: int) -> None:
    with pytest.raises(TryAgain) as caught:
        read_answer(status, b"<html>Bad gateway</html>")
    assert not caught.value.throttled
