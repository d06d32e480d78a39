"""What a slow request was about, without its values."""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_proxy.core.prepared import ClientStatements
from tidegate_proxy.fingerprint import fingerprint, kind
from tidegate_proxy.protocol.wire import BIND, FUNCTION_CALL, PARSE, QUERY


@dataclass(frozen=True)
class Request:
    """Kind and fingerprint of its last statement: "SELECT", and sixteen hexadecimal digits."""

    kind: str
    fingerprint: str | None


def described(chunk: bytes, statements: ClientStatements, standard_strings: bool) -> Request:
    """What the messages of a client ask for.

    Parameters: `chunk`, as much of the request as came first; `statements`, the client's prepared ones;
    `standard_strings`, the session's standard_conforming_strings.
    """
    found = Request("", None)
    pos = 0
    while len(chunk) - pos >= 5:
        end = pos + 1 + int.from_bytes(chunk[pos + 1 : pos + 5], "big")
        code, body = chunk[pos], chunk[pos + 5 : end]
        text: bytes | None = None
        if code == QUERY:
            text = body.partition(b"\0")[0]
        elif code == PARSE:
            text = body.partition(b"\0")[2].partition(b"\0")[0]
        elif code == BIND:
            text = statements.text_of(body.partition(b"\0")[2].partition(b"\0")[0])
        elif code == FUNCTION_CALL:
            found = Request("FUNCTION CALL", None)
        if text:
            found = Request(kind(text), fingerprint(text, standard_strings))
        pos = max(end, pos + 5)
    return found
