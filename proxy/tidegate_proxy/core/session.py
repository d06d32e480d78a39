"""One client's session: the parameters that it carries from server to server, and what keeps it on one of them."""

from __future__ import annotations

from collections.abc import Mapping

from tidegate_proxy.core.check import Check
from tidegate_proxy.core.statements import InternalQuery
from tidegate_proxy.core.suspect import (
    ASKED,
    LIBRARY,
    LOCK,
    LONG,
    MEANINGLESS,
    OPAQUE,
    PREPARED,
    SEQUENCE,
    TEMPORARY,
    UNREADABLE,
    Suspicion,
)

_QUERY_CANCELED = "57014"

_OUTLIVES_ROLLBACK = frozenset({LOCK, PREPARED})

_OF_MEANING = frozenset({LIBRARY, OPAQUE, TEMPORARY, UNREADABLE})
"""Pins while which a text may mean something else than it means to others."""


class Session:
    """What is known of a client's session.

    Parameters
    - `startup`: parameters of the StartupMessage, to which RESET goes back.
    - `always_ask`: ask the server about everything after every transaction, whatever the statements looked like.

    `parameters` is never changed in place: server connections remember which one they were given.
    """

    def __init__(self, startup: dict[str, str], *, always_ask: bool = False) -> None:
        self.startup = startup
        self.parameters = startup
        # Kinds of state that keep the client on its server connection.
        self.pins: set[str] = set()
        # A statement has failed since the first of those that the server was not asked about.
        self.failed = False
        self.always_ask = always_ask
        # The statements since the last answer, and whether there were any since the last question.
        self._ask: set[str] = set()
        self._set: set[str] = set()
        # What was set while the client was pinned: something out of sight may set it again.
        self._kept: set[str] = set()
        self._reset: set[str] = set()
        self._reset_all = False
        self.asked = True
        self._unanswered = 0
        # The latest question was cancelled and asked again.
        self._asked_again = False
        self._context: bytes | None = None
        self._pin_if_all_is_temporary()

    @property
    def context(self) -> bytes:
        """What parameters contribute to the meaning of a statement's text: empty for most clients."""
        if self._context is None:
            relevant = sorted((n, v) for n, v in self.parameters.items() if n.lower() not in MEANINGLESS)
            self._context = repr(relevant).encode() if relevant else b""
        return self._context

    @property
    def unsettled(self) -> bool:
        """Whether more may be left on the server connection than the carried parameters."""
        return bool(self.pins) or not self.asked or self._unanswered > 0 or self.always_ask

    @property
    def is_known(self) -> bool:
        """Whether the carried parameters are all that gives a statement's text its meaning at the beginning of a
        transaction."""
        return self.asked and self._unanswered == 0 and self.pins.isdisjoint(_OF_MEANING)

    def note(self, suspicion: Suspicion) -> set[str]:
        """A statement that may change the session is on its way. Returns: the pins that are new."""
        if self.asked:
            self.asked = False
            self.failed = False
        self._ask |= suspicion.ask
        self._set |= suspicion.names
        self._reset |= suspicion.reset
        self._reset_all = self._reset_all or suspicion.reset_all
        new = suspicion.pins - self.pins
        self.pins |= new
        return set(new)

    def restored_by(self, suspicion: Suspicion) -> dict[str, str]:
        """The parameters that may go back to what the StartupMessage said; the server by itself goes back further."""
        names = self.startup if suspicion.reset_all else suspicion.reset
        return {name: self.startup[name] for name in names if name in self.startup}

    def something_ran(self) -> None:
        """A transaction has ended that may have ended what pins the client."""
        if self.pins or self.always_ask:
            self.asked = False

    def next_check(self, applied: Mapping[str, str], *, in_advance: bool = False) -> Check | None:
        """What the server should be asked now, or None.

        Parameters: `applied`, what the proxy has set on it; `in_advance`, the question goes right behind a single
        statement that has not been run yet.
        """
        if self.asked:
            return None
        self.asked = True
        kinds = set(ASKED) if self.always_ask else (self._ask | self.pins) & set(ASKED)
        names = self._set | self._reset | self._kept
        if self._reset_all:
            names |= applied.keys() | self.parameters.keys()
        reset = names if self._reset_all else self._reset
        unnamed: set[str] = set()
        if self.always_ask:
            # Those that pg_settings does not list; what nobody has ever named stays unknown.
            unnamed = ({"role"} | self.parameters.keys()) - names
            names = names | unnamed
        check = Check(
            tuple(sorted(kinds)),
            tuple(sorted(names)),
            frozenset(reset - self._set),
            # After a failure, or a SET and a RESET, a value alone does not tell whether it was set or is the server's.
            all_changed=self.always_ask or (bool(names) and self.failed) or not self._set.isdisjoint(reset),
            in_advance=in_advance,
            unnamed=frozenset(unnamed),
        )
        self._kept |= self._set
        self._ask, self._set, self._reset, self._reset_all = set(), set(), set(), False
        if not kinds and not names and not self.always_ask:
            return None
        self._unanswered += 1
        return check

    def answered(self, check: Check, query: InternalQuery, applied: dict[str, str]) -> dict[str, str]:
        """Take the server's answer: update parameters and pins.

        Returns: the parameters that are now set on the server connection beside its own defaults.
        """
        self._unanswered -= 1
        if query.error is not None:
            if query.error.get("C") == _QUERY_CANCELED and not self._asked_again:
                # A CancelRequest was meant for the client's own statement and came late. Once only: with a very short
                # statement_timeout the question fails in the same way each time.
                self._asked_again = True
                self._ask_again(check)
                return applied
            # Timed out, say: whatever was asked about may be there. It is asked again.
            self.pins |= set(check.kinds)
            # Some parameters may not be read by everyone. What they are now is anybody's guess.
            if check.names:
                self.pins.add(UNREADABLE)
                self._kept.clear()
            return applied
        self._asked_again = False
        if check.in_advance and self.failed:
            # The one statement that was asked about changed nothing.
            return applied
        left, values = check.read(query.rows)
        self.pins = {pin for pin in self.pins if pin not in check.kinds} | left
        parameters, applied = dict(self.parameters), dict(applied)
        for name, value in values.items():
            if not check.tells_source(name) and name in check.reset and name not in self.startup:
                if value == applied.get(name):
                    continue  # rolled back, or nothing to reset
                value = None
            elif name == "role" and value == "none" and name in check.unnamed:
                value = None
            if value is not None:
                parameters[name] = applied[name] = value
                continue
            # The server is back at its own beginning; the client is to be back at that of its session.
            applied.pop(name, None)
            if name in self.startup:
                parameters[name] = self.startup[name]
            else:
                parameters.pop(name, None)
        if parameters != self.parameters:
            self.parameters = parameters
            self._context = None
        self._pin_if_all_is_temporary()
        if not self.pins:
            self._kept.clear()
        return self.parameters if applied == self.parameters else applied

    def _ask_again(self, check: Check) -> None:
        self.asked = False
        # What was set and what was reset is not told apart any longer, so all that was changed is asked for.
        self.failed = True
        self._ask |= set(check.kinds)
        self._set |= set(check.names) - check.unnamed - check.reset
        self._reset |= check.reset

    def _pin_if_all_is_temporary(self) -> None:
        """With pg_temp in the search path, nothing in a statement's text says that a table is a temporary one."""
        if "pg_temp" in self.parameters.get("search_path", "").lower():
            self.pins.add(TEMPORARY)

    def asks_about(self, kind: str) -> bool:
        """Whether a statement since the last question may have left state of this kind, or it pins."""
        return kind in self._ask or kind in self.pins

    def loses_with(self, *, in_transaction: bool) -> bool:
        """Whether the session loses something, unseen, with a server connection that breaks now.

        Parameters: `in_transaction`, one is open, so that what was set or made in it is undone, as the client will be
        told; but not what outlives a rollback.
        """
        if in_transaction:
            return not self._ask.isdisjoint(_OUTLIVES_ROLLBACK)
        return self._unanswered > 0 or bool(self._ask or self._set or self._reset or self._reset_all)

    def all_discarded(self) -> None:
        """DISCARD ALL was run: nothing is left of what could not be asked about either."""
        self.pins -= {LONG, SEQUENCE, UNREADABLE}

    def sequences_forgotten(self) -> None:
        """DISCARD SEQUENCES was run."""
        self.pins.discard(SEQUENCE)
