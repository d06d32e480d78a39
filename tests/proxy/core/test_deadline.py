"""A deadline is read from, and cut out of, what a client sends; anything that only looks like one stays as it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.rawclient import parse

from tidegate_proxy.core.deadline import cut_comment, set_by
from tidegate_proxy.protocol import encode

COMMENT = " /* tidegate.deadline_ms=2500 */"


@pytest.mark.parametrize("text", ["BEGIN", "BEGIN ISOLATION LEVEL SERIALIZABLE", "SELECT 'é'", ""])
def test_a_comment_at_the_end_is_cut_off(text: str) -> None:
    assert cut_comment(encode.query(text + COMMENT)) == (encode.query(text), 2.5, None)
    name = b"statement"
    assert cut_comment(parse(name, (text + COMMENT).encode())) == (parse(name, text.encode()), 2.5, None)


def test_it_may_name_the_request() -> None:
    name = b"8cc4ff5b-1dd1-4a3b-8b8c-0123456789ab"
    named = f"BEGIN /* tidegate.deadline_ms=2500,request_id={name.decode()} */"
    assert cut_comment(encode.query(named)) == (encode.query("BEGIN"), 2.5, name)


@pytest.mark.parametrize(
    "text",
    [
        "BEGIN",
        "BEGIN /* tidegate.deadline_ms=2500 */;",
        "BEGIN /* tidegate.deadline_ms=2500 */ -- more",
        "BEGIN /* tidegate.deadline_ms=-1 */",
        "BEGIN /* tidegate.deadline_ms= 1 */",
        "BEGIN /* tidegate.deadline_ms= */",
        "BEGIN /* tidegate.deadline_ms=12345678901 */",
        "BEGIN /* tidegate_deadline_ms=1 */",
        "BEGIN /* tidegate.deadline_ms=1,request_id= */",
        "BEGIN /* tidegate.deadline_ms=1,request_id=a b */",
        "BEGIN /* tidegate.deadline_ms=1,request_id=\n */",
        f"BEGIN /* tidegate.deadline_ms=1,request_id={'a' * 65} */",
        "BEGIN /* other */",
    ],
)
def test_anything_else_stays(text: str) -> None:
    assert cut_comment(encode.query(text)) is None
    assert cut_comment(parse(b"", text.encode())) is None


def test_a_parse_with_parameter_types_is_another_messages_end() -> None:
    assert cut_comment(encode.parse(b"", f"BEGIN{COMMENT}".encode(), b"\0\1\0\0\0\0")) is None


@given(st.binary(max_size=80))
def test_no_message_is_changed_but_for_its_comment(text: bytes) -> None:
    for message in (encode.message(ord("Q"), text + b"\0"), encode.message(ord("P"), text + b"\0\0\0")):
        found = cut_comment(message)
        if found is not None:
            assert text.endswith(b" */")
            assert message[5:].startswith(found[0][5:-3])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("SET tidegate.deadline_ms = '2500'", 2.5),
        ("set Tidegate.Deadline_ms to 30;", 0.03),
        (" SET tidegate.deadline_ms='0' ; ", 0.0),
        ("SET tidegate.deadline_ms = '1'; SELECT 1", None),
        ("SET LOCAL tidegate.deadline_ms = '1'", None),
        ("SET tidegate.deadline_ms = '-1'", None),
        ("SET tidegate.deadline_ms = DEFAULT", None),
        ("SETtidegate.deadline_ms = 1", None),
    ],
)
def test_a_set_is_one_statement_with_a_number(text: str, seconds: float | None) -> None:
    assert set_by(text.encode()) == seconds
