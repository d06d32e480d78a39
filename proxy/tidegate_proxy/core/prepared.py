"""A client's prepared statements: what its Parse, Bind, Describe and Close become on whatever server it is on."""

from __future__ import annotations

import re
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING

from tidegate_proxy.core.by_name import references, renamed
from tidegate_proxy.core.codes import OF_STATEMENT
from tidegate_proxy.core.look import Scanner as _Scanner
from tidegate_proxy.core.statements import (
    NAME_PREFIX,
    NOBODYS,
    AnswersFirst,
    CloseToken,
    InternalQuery,
    ParseToken,
    Statement,
    intern_statement,
    private_statement,
)
from tidegate_proxy.core.suspect import LONG, Suspicion, is_suspect
from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.protocol import encode
from tidegate_proxy.protocol.wire import BIND, CLOSE, PARSE

if TYPE_CHECKING:
    from tidegate_proxy.core.server import ServerConnection
    from tidegate_proxy.core.statistics import Statistics
    from tidegate_proxy.core.watch import SessionWatch

_scanner = _Scanner()
_pack_length = Struct(">I").pack

# It draws the same ParseComplete and costs the server next to nothing. (An empty one would be accepted in a failed
# transaction, too.)
_ANY_STATEMENT = b"SHOW server_version\0\0\0"
_CLOSE_NOTHING = encode.close_statement(NOBODYS)

# How the texts begin that may get a name, in lower case. Not BEGIN or ROLLBACK: what stands in for a Parse that is not
# needed would be refused in a failed transaction, and they are not.
_REUSABLE = (b"select", b"insert", b"update", b"delete", b"with", b"values", b"merge")
# Read as constants when a text is parsed: date 'today' would stay the same for ever. (Not now(), a function.)
_DATED = re.compile(rb"\b(?:now|today|tomorrow|yesterday|allballs)\b(?!\s*\()", re.IGNORECASE)
# Bytes of one of them and of what it is parsed under, and how many a pool remembers: together 40 MB at most.
_LONGEST_REUSED = 4_000
_MOST_SEEN = 5_000


def _parse_message(name: bytes, body: bytes) -> bytes:
    return b"P" + _pack_length(5 + len(name) + len(body)) + name + b"\0" + body


def _may_be_reused(body: bytes) -> bool:
    return body[:100].lstrip()[:6].lower().startswith(_REUSABLE) and _DATED.search(body) is None


class ClientStatements:
    """The named statements of one client, and its unnamed one.

    Parameters: `watch`, which is told when a statement that may change the session is about to be run; `statistics`,
    where they are counted.
    """

    def __init__(self, watch: SessionWatch, statistics: Statistics) -> None:
        self._watch = watch
        self._statistics = statistics
        self._named: dict[bytes, Statement] = {}
        # Names whose Parse or Close may not be answered yet, with that and the number of the request it belongs to.
        self._fresh: dict[bytes, tuple[ParseToken | CloseToken, int]] = {}
        # The body of the latest Parse without a name, and whether the present server connection has it.
        self._unnamed: bytes | None = None
        self._unnamed_suspicion: Suspicion | None = None
        self.unnamed_there = False
        # What is owed for the latest that it depends on, in the request of that number.
        self._latest: ParseToken | CloseToken | None = None
        self._latest_request = 0
        # The same as by what has been answered: where the latest is passed over, it is this one still.
        self._settled: bytes | None = None
        self._settled_suspicion: Suspicion | None = None
        # What is owed for a Parse of the same once more, which is plain and has come twice in a row.
        self._again: ParseToken | None = None
        # The named one that does for it, where clients send it again and again.
        self._stand_in: Statement | None = None

    @property
    def count(self) -> int:
        """How many named ones there are."""
        return len(self._named)

    def text_of(self, name: bytes) -> bytes | None:
        """The text of the statement that the client knows by this name."""
        statement = self._named.get(name)
        body = self._unnamed if not name else statement.body if statement is not None else None
        return body.partition(b"\0")[0] if body is not None else None

    def query_sent(self) -> None:
        """A simple query destroys the unnamed statement."""
        self._unnamed = self._stand_in = self._latest = None

    def query_answered(self) -> None:
        """The server has read it."""
        self._settled = None

    def query_passed_over(self) -> None:
        """The server has not read it."""
        self._unsettle()

    def rewrite(self, server: ServerConnection, kind: int, data: bytes, pos: int, limit: int, end: int) -> bytes | None:
        """What goes to the server in place of a message that names a statement, or None: as it is.

        Parameters: the message is `data[pos:end]`, of which `data[pos:limit]` is there.
        Raises: ClientProtocolError; AnswersFirst, before anything was done.
        """
        body = pos + 5
        if kind == PARSE:
            return self._parse(server, data, pos, limit, end)
        if kind == BIND:
            if limit - body > 1 and data[body] == 0 and data[body + 1] == 0:
                # As most are: the unnamed portal of the unnamed statement.
                name_at = name_end = body + 1
            else:
                name_at = _scanner.find_nul(data, body, limit) + 1
                name_end = _scanner.find_nul(data, name_at, limit) if name_at else -1
        elif body < limit and data[body] != OF_STATEMENT:
            if kind == CLOSE:
                server.owed.append(CloseToken())
            return None
        else:
            name_at = body + 1
            name_end = _scanner.find_nul(data, name_at, limit)
        if name_end < 0:
            raise ClientProtocolError("invalid string in message")
        name = _scanner.cut(data, name_at, name_end) if name_at < name_end else b""
        if name:
            if self._fresh:
                self._see_that_it_is_parsed(server, name)
        elif self._latest is not None and self._latest_request != server.request:
            # It depends on the end of an earlier request which statement this is.
            if self._latest in server.owed:
                raise AnswersFirst
            self._latest = None
        if name and server.client is not None and server.client.keeps_server:
            # All of this has the client's own names.
            if kind == CLOSE:
                self._named.pop(name, None)
                server.owed.append(CloseToken())
            elif kind == BIND:
                self._statistics.binds += 1
            return None
        if kind == CLOSE:
            return self._close_statement(server, name)
        if not name and self._stand_in is None:
            suspicion = self._unnamed_suspicion if kind == BIND else None
            if suspicion is not None and suspicion.forgets and self._latest_request != server.request:
                # What it deallocates is looked up as it is prepared, and is forgotten at the end of that request.
                self.unnamed_there = False
            was_there = self.unnamed_there
            again = b"" if was_there or self._unnamed is None else self._unnamed_again(server, self._unnamed)
            if suspicion is not None:
                self._watch.bound(suspicion, data, name_end, end)
            if again:
                return again + data[pos:limit]
            if was_there:
                return None
            # There may be somebody else's.
            return _scanner.renamed(data, pos, limit, end, name_at, name_end, NOBODYS)
        statement = self._named.get(name) if name else self._stand_in
        if statement is None:
            # It may have been prepared by SQL.
            hidden = name in server.stray_names or name.startswith(NAME_PREFIX)
            return _scanner.renamed(data, pos, limit, end, name_at, name_end, NOBODYS) if hidden else None
        before = b""
        if self._is_there(server, statement):
            self._used(server, statement)
        else:
            out: list[bytes] = []
            statement = self._meant_now(server, name, statement)
            self._provide(server, statement, out)
            before = b"".join(out)
        if kind == BIND:
            self._statistics.binds += 1
            if statement.suspicion is not None:
                self._watch.bound(statement.suspicion, data, name_end, end)
        message = _scanner.renamed(data, pos, limit, end, name_at, name_end, statement.name)
        return before + message if before else message

    def _parse(self, server: ServerConnection, data: bytes, pos: int, limit: int, end: int) -> bytes | None:
        again = self._again
        if (
            again is not None
            and self._unnamed is not None
            and self._unnamed is again.installed
            and self._unnamed_suspicion is None
            and _scanner.is_at(data, pos + 6, end, self._unnamed)
            and data[pos + 5] == 0
            and not server.owner.reuse_after
            and server.client is not None
            and not server.client.unsynced
            # With an answer that is still to come, one token would stand for two.
            and not server.owed
        ):
            self.unnamed_there = True
            self._expect(server, again)
            return None
        name_end = pos + 5 if pos + 5 < limit and data[pos + 5] == 0 else _scanner.find_nul(data, pos + 5, limit)
        sql_end = _scanner.find_nul(data, name_end + 1, limit) if name_end >= 0 else -1
        if name_end < 0 or (sql_end < 0 and end == limit):
            raise ClientProtocolError("invalid string in message")
        name = _scanner.cut(data, pos + 5, name_end) if pos + 5 < name_end else b""
        if end > limit:
            # Too long to be carried from server to server: it goes as it is, and the client stays with it.
            ahead = self._watch.sequences.taken(server)
            self._watch.suspect(Suspicion(pins=frozenset({LONG})))
            if not name:
                self._unnamed = self._stand_in = None
                self._unnamed_suspicion = None
                self.unnamed_there = True
                self._expect(server, self._of_unnamed(server, None, None))
            else:
                server.owed.append(ParseToken())
            return ahead + data[pos:limit] if ahead else None
        if self._fresh and name:
            self._see_that_it_is_parsed(server, name)
        body = _scanner.cut(data, name_end + 1, end)
        if not name and _scanner.looks_plain(data, name_end + 1, sql_end):
            token = self._of_unnamed(server, body, None)
            comes_again = self._unnamed_suspicion is None and self._unnamed == body
            self._unnamed = body
            self._unnamed_suspicion = None
            if server.owner.reuse_after and (reused := self._reused(server, body)) is not None:
                self._stand_in = reused
                self.unnamed_there = False
                return self._parse_as(server, name, reused, token)
            self._again = None
            if comes_again:
                self._again = self._of_unnamed(server, body, None)
                self._again.begins_request = True
            self._stand_in = None
            self.unnamed_there = True
            self._expect(server, token)
            return None
        text = data[name_end + 1 : sql_end]
        suspect = is_suspect(text)
        suspicion = self._watch.examine(server, text) if suspect else None
        before = b""
        if suspicion is not None:
            before = self._watch.sequences_ahead(server, suspicion, text)
        if not name:
            out = [before] if before else []
            sent = self.by_server_name(server, text, out, apart=False) if suspect else text
            self._expect(server, self._of_unnamed(server, body, suspicion))
            self._unnamed = body
            self._stand_in = None
            self._unnamed_suspicion = suspicion
            self.unnamed_there = True
            if sent is not text:
                out.append(_parse_message(b"", sent + data[sql_end:end]))
            elif out:
                out.append(data[pos:end])
            return b"".join(out) if out else None
        keeps_server = server.client is not None and server.client.keeps_server
        if name in self._named and not keeps_server:
            # The server itself shall say that the name is taken, under the name that the client knows.
            server.owed.append(ParseToken(swallow=True))
            server.owed.append(ParseToken())
            if name.startswith(NAME_PREFIX):
                name = NOBODYS + b"_at_all"
            server.stray_names.append(name)
            taken = _parse_message(name, _ANY_STATEMENT)
            return before + taken + taken
        self._statistics.client_parses += 1
        if keeps_server:
            # What the server makes of it is what the client has, under the client's own name.
            self._named[name] = Statement(name, body, None, suspicion)
            server.owed.append(ParseToken())
            return before or None
        self._named[name] = statement = self._statement(server, body, suspicion)
        return before + self._parse_as(server, name, statement, ParseToken(undo=partial(self.forget, name)))

    def _reused(self, server: ServerConnection, body: bytes) -> Statement | None:
        """The named statement that does for this unnamed one; None while it has not come often enough."""
        context = self._watch.statement_context
        # What the transaction has altered itself is no common change of the schema yet.
        if context is None or self._watch.schema_changed:
            return None
        owner = server.owner
        key = (context, owner.plan_generation, body)
        seen = owner.seen.get(key, 0)
        if isinstance(seen, Statement):
            return seen
        if seen < owner.reuse_after:
            if seen == 0:
                if len(body) + len(context) > _LONGEST_REUSED or not _may_be_reused(body):
                    return None
                if len(owner.seen) >= _MOST_SEEN:
                    owner.seen.clear()
            owner.seen[key] = seen + 1
            return None
        owner.seen[key] = statement = self._statement(server, body, None)
        return statement

    def _statement(self, server: ServerConnection, body: bytes, suspicion: Suspicion | None) -> Statement:
        """The statement that this body is under the session's present parameters."""
        context = self._watch.statement_context
        if context is None:
            return private_statement(body, suspicion)
        return intern_statement(body, context, suspicion, server.owner.plan_generation)

    def _parse_as(self, server: ServerConnection, name: bytes, statement: Statement, token: ParseToken) -> bytes:
        """What becomes of a Parse of the client's under this name, whose answer is owed by the token."""
        # Whoever binds it in a later request, while this one may still fail, has to know which it is.
        if name:
            self._fresh[name] = (token, server.request)
        else:
            self._latest, self._latest_request = token, server.request
        if self._is_there(server, statement):
            self.unnamed_there = False
            server.owed.append(token)
            return _parse_message(b"", _ANY_STATEMENT)
        token.statement = statement
        out: list[bytes] = []
        self._parse_on(server, statement, out, token)
        return b"".join(out)

    def by_server_name(self, server: ServerConnection, text: bytes, out: list[bytes], *, apart: bool) -> bytes:
        """DEALLOCATE and EXECUTE in SQL know protocol-level statements by the client's name: give the server's.

        Parameters: what must go before the text is appended to `out`; `apart`, as a request of its own.
        Returns: the text to send instead. Raises: AnswersFirst, before anything was done.
        """
        keeps_server = server.client is not None and server.client.keeps_server
        if keeps_server or server.copy_in or not (self._named or NAME_PREFIX in text):
            return text
        found = references(text, server.reads_standard_strings)
        for reference in found:
            self._see_that_it_is_parsed(server, reference.name)
        for reference in found:
            statement = self._named.get(reference.name)
            if statement is not None:
                statement = self._meant_now(server, reference.name, statement)
            if reference.deallocates:
                server.deallocating.append(None if statement is None else (reference.name, statement))
            elif statement is not None and statement.suspicion is not None:
                self._watch.suspect(statement.suspicion)
            if statement is None:
                continue
            if not apart:
                self._provide(server, statement, out)
            elif statement.name not in server.prepared or statement.name in server.unconfirmed:
                out.append(self._prepare_apart(server, statement))
        known = [(reference, name) for reference in found if (name := self._known_as(reference.name)) is not None]
        return renamed(text, known) if known else text

    def _known_as(self, name: bytes) -> bytes | None:
        """The server's name for what the client calls so; None if that is the same."""
        statement = self._named.get(name)
        if statement is not None:
            return statement.name
        return NOBODYS if name.startswith(NAME_PREFIX) else None

    def _prepare_apart(self, server: ServerConnection, statement: Statement) -> bytes:
        # With a Sync of its own: after a Parse that failed the server would not even answer the Query behind it.
        messages = _parse_message(statement.name, statement.body) + encode.sync()
        if statement.name in server.prepared or statement.name in server.stray_names:
            messages = encode.close_statement(statement.name) + messages
        server.prepared[statement.name] = statement
        self._statistics.server_parses += 1

        def answered(query: InternalQuery) -> None:
            if query.error is not None:
                server.prepared.pop(statement.name, None)

        server.begin_internal(answered)
        return messages

    def _provide(self, server: ServerConnection, statement: Statement, out: list[bytes]) -> None:
        """Prepare a statement on the server unless it is there, and mark it as used."""
        if self._is_there(server, statement):
            self._used(server, statement)
        else:
            self._parse_on(server, statement, out, ParseToken(statement, swallow=True))

    def _meant_now(self, server: ServerConnection, name: bytes, statement: Statement) -> Statement:
        """The same, unless the server would have to read it now, under other parameters than those that it is shared
        under: then it becomes another one, for good, since who shares it must not get what these make of its text."""
        if (
            statement.context is None
            or self._is_there(server, statement)
            or statement.context == self._watch.statement_context
        ):
            return statement
        statement = self._statement(server, statement.body, statement.suspicion)
        if name:
            self._named[name] = statement
        else:
            self._stand_in = statement
        return statement

    def _is_there(self, server: ServerConnection, statement: Statement) -> bool:
        """Whether it is prepared on the server, for sure."""
        return statement.name in server.prepared and not (server.unconfirmed and self._is_doubtful(server, statement))

    def _used(self, server: ServerConnection, statement: Statement) -> None:
        # While there are few, their order does not matter yet.
        if 2 * len(server.prepared) > server.owner.max_prepared:
            del server.prepared[statement.name]
            server.prepared[statement.name] = statement

    def _of_unnamed(self, server: ServerConnection, body: bytes | None, suspicion: Suspicion | None) -> ParseToken:
        """What is owed for a Parse that makes this the unnamed statement."""
        # A body of None is one too long to be kept. Made for each extended query: calling the class takes twice as long
        # where this is compiled.
        token = ParseToken.__new__(ParseToken)
        token.statement = token.undo = None
        token.swallow = False
        token.unnamed_of = self
        token.installed = body
        token.suspicion = suspicion
        token.begins_request = server.client is not None and not server.client.behind_others
        return token

    def _unnamed_again(self, server: ServerConnection, body: bytes) -> bytes:
        """Prepare the unnamed statement of an earlier transaction on another server connection.

        Raises: AnswersFirst, before anything was done.
        """
        out: list[bytes] = []
        text, nul, types = body.partition(b"\0")
        sent = self.by_server_name(server, text, out, apart=False) + nul + types if is_suspect(text) else body
        token = self._of_unnamed(server, body, self._unnamed_suspicion)
        token.swallow = True
        self.unnamed_there = True
        self._expect(server, token)
        out.append(_parse_message(b"", sent))
        return b"".join(out)

    def _expect(self, server: ServerConnection, token: ParseToken | CloseToken) -> None:
        """An answer is owed upon which the unnamed statement depends."""
        self._latest = token
        self._latest_request = server.request
        server.owed.append(token)

    def _see_that_it_is_parsed(self, server: ServerConnection, name: bytes) -> None:
        """Raises AnswersFirst while it depends on the end of an earlier request whose the name is."""
        token, request = self._fresh.get(name, (None, 0))
        if token is None or request == server.request:
            return
        if token in server.owed:
            raise AnswersFirst
        del self._fresh[name]

    def _is_doubtful(self, server: ServerConnection, statement: Statement) -> bool:
        """Whether the statement's Parse belongs to an earlier request, which may fail without this one's failing."""
        return server.unconfirmed.get(statement.name, server.request) != server.request

    def _parse_on(self, server: ServerConnection, statement: Statement, out: list[bytes], token: ParseToken) -> None:
        if statement.name in server.prepared or statement.name in server.stray_names:
            # If the server skips it, what was there is there still.
            server.owed.append(CloseToken(swallow=True, undo=partial(server.stray_names.append, statement.name)))
            out.append(encode.close_statement(statement.name))
        server.owed.append(token)
        server.unconfirmed[statement.name] = server.request
        server.prepared[statement.name] = statement
        self._statistics.server_parses += 1
        out.append(_parse_message(statement.name, statement.body))

    def parsed(self, token: ParseToken) -> None:
        """The server has this unnamed statement now."""
        self._settled = token.installed
        self._settled_suspicion = token.suspicion

    def closed(self) -> None:
        """The server has no unnamed statement any more."""
        self._settled = None

    def refused(self, token: ParseToken) -> None:
        """The server has not taken an unnamed statement, and has none now; it will pass over what comes behind it."""
        # One that was prepared again, which the client has still, is looked at by the server only when it is used.
        if not token.swallow:
            self._settled = None

    def passed_over(self, token: ParseToken | CloseToken) -> None:
        """A Parse or a Close of the unnamed statement was passed over, or refused."""
        # Unless another has come since, in a request of its own.
        if self._latest is token:
            self._unsettle()

    def server_lost(self, *, with_query: bool) -> None:
        """What the server still owed is not going to be answered. Parameters: `with_query`, a Query was among it."""
        if with_query:
            self._settled = None
        # It may be owed by a connection that was taken away and goes on without its client.
        self._again = None
        self._unsettle()

    def _unsettle(self) -> None:
        self._unnamed = self._settled
        self._unnamed_suspicion = self._settled_suspicion
        self._stand_in = self._latest = None
        self.unnamed_there = False

    def _close_statement(self, server: ServerConnection, name: bytes) -> bytes | None:
        statement = self._named.pop(name, None) if name else None
        if statement is None:
            token = CloseToken()
            if name:
                server.owed.append(token)
            else:
                token.unnamed_of = self
                self._expect(server, token)
                self._unnamed = self._stand_in = None
            # Nobody's own: what the proxy has prepared here under such a name is for everybody.
            return _CLOSE_NOTHING if name.startswith(NAME_PREFIX) else None
        kept = statement

        was_there = kept.private and server.prepared.pop(kept.name, None) is not None

        def undo() -> None:
            self._named[name] = kept
            if was_there:
                server.prepared[kept.name] = kept

        token = CloseToken(undo=undo)
        self._fresh[name] = (token, server.request)
        server.owed.append(token)
        if was_there:
            return encode.close_statement(kept.name)
        # It stays prepared on the server, for others and for later: closing what does not exist answers the same.
        return _CLOSE_NOTHING

    def forget(self, name: bytes) -> None:
        """It was deallocated by SQL, or its Parse has failed."""
        self._named.pop(name, None)

    def forget_all(self, server: ServerConnection) -> None:
        """DEALLOCATE ALL or DISCARD ALL was run, before what the server still owes."""
        self._fresh = {name: fresh for name, fresh in self._fresh.items() if fresh[0] in server.owed}
        self._named = {name: statement for name, statement in self._named.items() if name in self._fresh}
