"""Prepared statements that follow their client from server to server, and the responses that a server still owes.

A client's named statement is renamed by its content, so that the same statement of five hundred clients is prepared
once on each server connection. What a client's Parse, Bind, Describe and Close become is always a message that draws
the same kind of response, so responses never need to be made up or put in order; a Parse that we add ourselves is the
only one whose response is swallowed.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from tidegate_proxy.core.prepared import ClientStatements
    from tidegate_proxy.core.suspect import Suspicion

NAME_PREFIX = b"tidegate_"
NOBODYS = NAME_PREFIX + b"none"
"""The name of a statement that does not exist."""


class Statement:
    """One prepared statement: its name on servers, the body of a Parse message after the name, and what running it may
    change in the session. `context` are the session parameters under which the text has its meaning; None for one that
    no other client may use, which is `private`."""

    def __init__(self, name: bytes, body: bytes, context: bytes | None, suspicion: Suspicion | None) -> None:
        self.name = name
        self.body = body
        self.context = context
        self.suspicion = suspicion

    @property
    def private(self) -> bool:
        """Whether it is one client's own."""
        return self.context is None


_private_numbers = count(1)
_statements: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()


def intern_statement(
    body: bytes, context: bytes = b"", suspicion: Suspicion | None = None, plan_generation: bytes = b""
) -> Statement:
    """The one Statement for this content, shared by all clients that prepared it.

    Parameters: `body`, a Parse message's SQL with its NUL, then its parameter types; `context`, the session parameters
    under which it is parsed, since they decide what a constant like '01/02/03' means; `plan_generation`, another one
    once earlier plans may be out of date.
    """
    # 16 bytes of BLAKE2: two contents with one name would hand a client another's statement, so chance must not matter.
    # With the body's length, so that no body can be another one and its context.
    digest = blake2b(b"%d " % len(body) + body + context + plan_generation, digest_size=16)
    name = NAME_PREFIX + digest.hexdigest().encode()
    statement = _statements.get(name)
    if statement is None:
        statement = Statement(name, body, context, suspicion)
        _statements[name] = statement
    return statement


def private_statement(body: bytes, suspicion: Suspicion | None) -> Statement:
    """A Statement of one client's own, for a text that may mean something else than to others."""
    return Statement(NAME_PREFIX + b"private_%d" % next(_private_numbers), body, None, suspicion)


class AnswersFirst(Exception):  # noqa: N818 -- no error
    """What a message means depends on the answer to an earlier request."""


class ParseToken:
    """A ParseComplete that is owed.

    `statement` is what the server will then have (None when it had it already, or for one that it shall not keep);
    `undo` is called if the server refuses or skips it; `swallow` keeps the response from the client. Where it is the
    unnamed statement of `unnamed_of`, then `installed` is its body, `suspicion` what running it may change, and
    `begins_request` says that an error in its place can be of nothing else.
    """

    def __init__(
        self, statement: Statement | None = None, swallow: bool = False, undo: Callable[[], None] | None = None
    ) -> None:
        self.statement = statement
        self.swallow = swallow
        self.undo = undo
        self.unnamed_of: ClientStatements | None = None
        self.installed: bytes | None = None
        self.suspicion: Suspicion | None = None
        self.begins_request = False


class CloseToken:
    """A CloseComplete that is owed; `undo`, `swallow` and `unnamed_of` as with ParseToken."""

    def __init__(self, *, swallow: bool = False, undo: Callable[[], None] | None = None) -> None:
        self.swallow = swallow
        self.undo = undo
        self.unnamed_of: ClientStatements | None = None


class InternalQuery:
    """A request of the proxy's own: its responses, up to ReadyForQuery, never reach a client.

    `rows` are text values; `error` the fields of an ErrorResponse; `reported` the names that came in ParameterStatus.
    `answered` is called at its ReadyForQuery.
    """

    def __init__(self, answered: Callable[[InternalQuery], None]) -> None:
        self.rows: list[list[bytes | None]] = []
        self.error: dict[str, str] | None = None
        self.reported: set[bytes] = set()
        self.answered = answered


def ignored(_: InternalQuery) -> None:
    """What calls for no more than that it was answered."""
