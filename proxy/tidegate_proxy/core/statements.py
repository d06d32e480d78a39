"""Prepared statements that follow their client from server to server, and the responses that a server still owes.

A client's named statement is renamed by its content, so that the same statement of five hundred clients is prepared
once on each server connection. What a client's Parse, Bind, Describe and Close become is always a message that draws
the same kind of response, so responses never need to be made up or put in order; a Parse that we add ourselves is the
only one whose response is swallowed.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from weakref import WeakValueDictionary

NAME_PREFIX = b"tidegate_"


class Statement:
    """One prepared statement: its name on servers, and the body of a Parse message after the name."""

    __slots__ = ("__weakref__", "body", "name")

    def __init__(self, name: bytes, body: bytes) -> None:
        self.name = name
        self.body = body


_statements: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()


def intern_statement(body: bytes) -> Statement:
    """The one Statement for this content, shared by all clients that prepared it.

    Parameters: `body`, a Parse message's SQL with its NUL, then its parameter types.
    """
    # 16 bytes of BLAKE2: two contents with one name would hand a client another's statement, so chance must not matter.
    name = NAME_PREFIX + blake2b(body, digest_size=16).hexdigest().encode()
    statement = _statements.get(name)
    if statement is None:
        statement = Statement(name, body)
        _statements[name] = statement
    return statement


class ParseToken:
    """A ParseComplete that is owed.

    `statement` is what the server will then have (None when it had it already, or for one that it shall not keep);
    `client_name` is what the client calls it (None for a Parse of ours); `swallow` keeps the response from the client.
    """

    __slots__ = ("client_name", "statement", "swallow")

    def __init__(self, statement: Statement | None, client_name: bytes | None, swallow: bool) -> None:
        self.statement = statement
        self.client_name = client_name
        self.swallow = swallow


class CloseToken:
    """A CloseComplete that is owed. A client's named statement lives on if the server skips its Close."""

    __slots__ = ("client_name", "statement")

    def __init__(self, client_name: bytes, statement: Statement | None) -> None:
        self.client_name = client_name
        self.statement = statement


class InternalQuery:
    """A request of the proxy's own: its responses, up to ReadyForQuery, never reach a client.

    `rows` are text values; `error` the fields of an ErrorResponse. `answered` is called at its ReadyForQuery.
    """

    __slots__ = ("answered", "error", "rows")

    def __init__(self, answered: Callable[[InternalQuery], None]) -> None:
        self.rows: list[list[bytes | None]] = []
        self.error: dict[str, str] | None = None
        self.answered = answered
