"""Does this statement's text look as if it might change the session? A cheap test that may say yes too often.

The statement kinds that change a session do so as a statement's first word, so those words count at the start of the
text, after a semicolon and after a comment; functions and TEMP count anywhere. `UPDATE t SET a = 1` is thus no suspect.
SET LOCAL and `set_config(…, true)` end with their transaction: nothing is asked about them, but until then most
parameters decide what other statements mean.

A suspicion says what to ask the server about afterwards; what is really left in the session is the server's answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

from tidegate_proxy.core.lexer import bare

LISTENING: Final = "listen"
PREPARED: Final = "prepared statement"
CURSOR: Final = "holdable cursor"
LOCK: Final = "advisory lock"
TEMPORARY: Final = "temporary object"
ASKED: Final = (LISTENING, PREPARED, CURSOR, LOCK, TEMPORARY)
"""State that a server can be asked about."""

SEQUENCE: Final = "sequence"
LIBRARY: Final = "loaded library"
OPAQUE: Final = "state that cannot be asked about"
UNREADABLE: Final = "parameter whose name is computed"
LONG: Final = "long statement"

MEANINGLESS: Final = frozenset(
    {
        "application_name",
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "statement_timeout",
        "transaction_timeout",
        "work_mem",
    }
)
"""Parameters that change nothing about what a statement's text means: clients that differ in them share prepared
statements."""

REMEMBERED_LENGTH: Final = 1024
"""Bytes up to which a text's verdict is remembered, for the latest thousand of them."""


@dataclass(frozen=True)
class Suspicion:
    """What a statement may have changed.

    `ask` are kinds of state to ask the server about; `pins` are kinds that nobody can ask about, which stay as long as
    the client does; `names` are parameters that may have been set and `reset` those that may have been reset, in lower
    case; `reset_all` stands for all of them. `sure_end`: a single SET or RESET, which outside a transaction block ends
    its own transaction. `reads_sequence`: currval or lastval. `defaults`: ALTER ROLE or ALTER DATABASE. `forgets`:
    DEALLOCATE or DISCARD, after which a prepared statement's name may be free. `local`: parameters may be others until
    the transaction ends, which is nothing to ask about. `bound`: numbers of arguments, from 1, that are names of
    parameters, `set_config($1, …)`; only whoever sees the Bind message knows which.
    """

    ask: frozenset[str] = frozenset()
    pins: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    reset: frozenset[str] = frozenset()
    reset_all: bool = False
    sure_end: bool = False
    reads_sequence: bool = False
    defaults: bool = False
    forgets: bool = False
    local: bool = False
    bound: frozenset[int] = frozenset()

    def with_bound(self, names: Iterable[bytes | None]) -> Suspicion:
        """The same once the names that are arguments are known."""
        plain = {None if name is None or not name.isascii() else name.decode().lower() for name in names}
        pins = {UNREADABLE} if None in plain else set()
        if "seed" in plain:
            pins.add(OPAQUE)
        known = {name for name in plain if name is not None} - _NOT_CARRIED
        return replace(self, names=self.names | known, pins=self.pins | pins, bound=frozenset())


# A name and a value that are plainly what they look like, and then plainly "only in this transaction".
_LOCAL_CONFIG: Final = (
    rb"\s*\(\s*(?:'[^'\\]*'|\$\d+)(?:::\w+)?\s*,\s*(?:'[^'\\]*'|\$\d+|[\w.]+)(?:::\w+)?\s*,"
    rb"\s*(?:true|'t(?:rue)?')\s*\)"
)
_ANY_SET: Final = rb"SET\b(?!\s+(?:TRANSACTION|CONSTRAINTS)\b)"
_LASTING_SET: Final = rb"SET\b(?!\s+(?:LOCAL|TRANSACTION|CONSTRAINTS)\b)"

# Where a statement may begin. None of these can be long, or overlap with itself: a search must never take more than
# time in proportion to the text.
_BARE_START: Final = rb"(?:\A|;)\s*"
_RAW_START: Final = rb"(?:(?:\A|;|\*/)\s*|[\r\n][ \t\f\v]*)"


# Functions whose effect on the session is neither shown by the server nor undone by DISCARD ALL.
_UNASKABLE: Final = (
    rb"\bsetseed\b|\bdblink_connect|session_setup\b|(?:create|copy)_(?:physical|logical)_replication_slot"
    rb"|\bpg_(?:start_backup|backup_start)\b"
)
# Functions that run SQL given as a string.
_RUNS_STRINGS_WORD: Final = rb"\b(?:query_to_xml|ts_stat|ts_rewrite|crosstab|connectby|xpath_table)"


def _gate(start: bytes) -> re.Pattern[bytes]:
    first_words = (
        _ANY_SET,
        rb"RESET\b",
        rb"PREPARE\b(?!\s+TRANSACTION\b)",
        rb"(?:DEALLOCATE|DISCARD|EXECUTE|LISTEN|UNLISTEN|DECLARE|CLOSE|LOAD|DO)\b",
        rb"ALTER\s*(?:\s(?:ROLE|USER|DATABASE)\b|/\*|--)",
    )
    anywhere = (
        rb"\bset_config\b",
        rb"\bTEMP(?:ORARY)?\b|\bpg_temp|advisory_(?:un)?lock",
        rb"\b(?:nextval|currval|lastval|setval)\b",
        _UNASKABLE + rb'|\bpg_settings\b|U&"',
        _RUNS_STRINGS_WORD,
        # EXPLAIN and CREATE TABLE AS run a statement by its name, too; GRANT and CREATE TRIGGER have the word only.
        rb"\bEXECUTE\b(?!\s+(?:ON|FUNCTION|PROCEDURE)\b)",
    )
    return re.compile(start + rb"(?:" + rb"|".join(first_words) + rb")|" + rb"|".join(anywhere), re.IGNORECASE)


# Only after a comment that goes to the end of its line does a line's beginning say anything.
_GATE: Final = _gate(rb"(?:\A|;|\*/)\s*")
_GATE_WITH_LINE_COMMENTS: Final = _gate(_RAW_START)

_SEQUENCE = re.compile(rb"\b(?:nextval|setval)\b", re.IGNORECASE)
_READS_SEQUENCE = re.compile(rb"\b(?:currval|lastval)\b", re.IGNORECASE)
_UNICODE_NAME = re.compile(rb'U&"', re.IGNORECASE)
# A backslash may disguise any of them.
_CHANGES_INSIDE = re.compile(rb"\bSET\b|\bset_config\b|\bEXECUTE\b|U&|\\", re.IGNORECASE)
_LOADS_INSIDE = re.compile(rb"\bLOAD\b", re.IGNORECASE)
_UNASKABLE_INSIDE = re.compile(_UNASKABLE, re.IGNORECASE)
_RUNS_STRINGS = re.compile(_RUNS_STRINGS_WORD, re.IGNORECASE)
# All of the SQL is there to read, in one string.
_RUNS_ONE_STRING = re.compile(
    rb"\b(?:(?:query_to_xml|ts_stat)\w*\s*\(\s*%(string)s\s*[,)]"
    rb"|crosstab\w*\s*\(\s*%(string)s\s*(?:,\s*(?:%(string)s|\d+)\s*)?\)"
    # With three arguments it runs nothing.
    rb"|ts_rewrite\s*\(%(argument)s,(?:\s*%(string)s\s*\)|%(argument)s,))"
    % {b"string": rb"(?:[EN]|U&)?''", b"argument": rb"(?:[^(),]|\([^()]*\))*"},
    re.IGNORECASE,
)

_NAME: Final = rb'(?P<name>"[^"]+"(?:\."[^"]+")?|[\w.$]+)'
_SET_NAME = re.compile(rb"\s*(?:SESSION\s+)?" + _NAME + rb"\s*(?:=|\bTO\b)\s*(?P<value>.*)", re.IGNORECASE | re.DOTALL)
_SET_WORDS: Final = tuple(
    (re.compile(rb"\s+(?:SESSION\s+)?" + words + rb"\b", re.IGNORECASE), names)
    for words, names in (
        (
            rb"CHARACTERISTICS",
            ("default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"),
        ),
        (rb"SESSION\s+AUTHORIZATION", ("session_authorization", "role")),
        (rb"ROLE", ("role",)),
        (rb"TIME\s+ZONE", ("timezone",)),
        (rb"NAMES", ("client_encoding",)),
        (rb"SCHEMA", ("search_path",)),
        (rb"XML\s+OPTION", ("xmloption",)),
        (rb"SEED", ()),
    )
)
_RESET_WORDS: Final = (
    (re.compile(rb"\s+SESSION\s+AUTHORIZATION\s*\Z", re.IGNORECASE), ("session_authorization", "role")),
    (re.compile(rb"\s+TIME\s+ZONE\s*\Z", re.IGNORECASE), ("timezone",)),
)
_RESET_NAME = re.compile(rb"\s*" + _NAME + rb"\s*\Z", re.IGNORECASE)
_CONFIG = re.compile(
    rb"\bset_config\b(?:\s*\(\s*'(?P<name>[^'\\]+)'(?:::\w+)?\s*,(?:\s*(?P<value>'[^'\\]*')(?:::\w+)?\s*,)?)?",
    re.IGNORECASE,
)
_CONFIG_ARGUMENT = re.compile(rb"\bset_config\s*\(\s*\$(?P<number>\d{1,5})(?:::\w+)?\s*,", re.IGNORECASE)
_LOCAL_CALL = re.compile(rb"\bset_config" + _LOCAL_CONFIG, re.IGNORECASE)
_TEMPORARY_SCHEMA = re.compile(rb"\bpg_temp", re.IGNORECASE)
_SETS_PATH = re.compile(rb"\bsearch_path\b|\bSCHEMA\b", re.IGNORECASE)
_ONE_SET = re.compile(rb"\A\s*(?:SET|RESET)\b[^;]*(?:;\s*)?\Z", re.IGNORECASE)


class _Patterns:
    """What to look for where statements begin in a certain way.

    Parameters: `bare`, the text consists of statements alone; else anything may be between two words, a semicolon in a
    comment or a name included.
    """

    def __init__(self, start: bytes, *, bare: bool) -> None:
        hold = rb"[^;]*\bHOLD\b" if bare else rb""
        role = rb"\s+(?:ROLE|USER|DATABASE)\b[^;]*\b(?:SET|RESET)\b" if bare else rb""

        def after_start(pattern: bytes) -> re.Pattern[bytes]:
            return re.compile(start + pattern, re.IGNORECASE)

        self.kinds = (
            (after_start(rb"(?:LISTEN|UNLISTEN|DISCARD)\b"), LISTENING),
            (after_start(rb"(?:PREPARE\b(?!\s+TRANSACTION\b)|DEALLOCATE\b|DISCARD\b)"), PREPARED),
            (after_start(rb"(?:DECLARE\b" + hold + rb"|CLOSE\b|DISCARD\b)"), CURSOR),
            (after_start(rb"DISCARD\b"), LOCK),
            (after_start(rb"DISCARD\b"), TEMPORARY),
            (re.compile(rb"advisory_(?:un)?lock", re.IGNORECASE), LOCK),
            (re.compile(rb"\bTEMP(?:ORARY)?\b", re.IGNORECASE), TEMPORARY),
        )
        self.library = after_start(rb"LOAD\b")
        self.unaskable = re.compile(start + rb'SET\s+(?:(?:SESSION|LOCAL)\s+)?"?SEED\b|' + _UNASKABLE, re.IGNORECASE)
        self.code = after_start(rb"DO\b")
        self.defaults = after_start(rb"ALTER\b" + role)
        self.forgets = after_start(rb"(?:DEALLOCATE|DISCARD)\b")
        self.local = after_start(rb"SET\s+LOCAL\b(?P<rest>[^;]*)")
        self.set = after_start(_LASTING_SET + rb"(?P<rest>[^;]*)")
        self.reset = after_start(rb"RESET\b(?P<rest>[^;]*)")
        self.reset_all = after_start(
            rb"(?:RESET|DISCARD)\s+ALL\b" if bare else rb"DISCARD\b|RESET\s*(?:\sALL\b|/\*|--)"
        )


_BARE: Final = _Patterns(_BARE_START, bare=True)
_RAW: Final = _Patterns(_RAW_START, bare=False)

# The first last for one transaction, whatever way they are set; the last has no value that could be read.
_NOT_CARRIED: Final = frozenset({"transaction_isolation", "transaction_read_only", "transaction_deferrable", "seed"})

ANYTHING: Final = Suspicion(ask=frozenset(ASKED), pins=frozenset({UNREADABLE}))
"""What a call of any function at all may have changed."""


_STATEMENT_WORDS: Final = (
    b"set",
    b"prepare",
    b"deallocate",
    b"discard",
    b"execute",
    b"listen",
    b"declare",
    b"close",
    b"load",
    b"do",
    b"alter",
)
_WORDS: Final = (
    *_STATEMENT_WORDS,
    *(b"temp", b"advisory_", b"tval", b"currval", b"dblink", b"session_setup", b"_slot", b"backup", b'u&"'),
    *(b"query_to_xml", b"ts_stat", b"ts_rewrite", b"crosstab", b"connectby", b"xpath_table"),
)
"""One of these is in every text that is suspect; "set" stands for pg_settings, too."""
_FIRST_WORD: Final = re.compile(
    rb"\s*(?:set|reset|prepare|deallocate|discard|execute|listen|unlisten|declare|close|load|do|alter|explain|create)\b"
)


def is_part_suspect(text: bytes) -> bool:
    """The same as `is_suspect` for a part of a text, which may begin in the midst of a comment."""
    lowered = text.lower()
    return any(word in lowered for word in _WORDS) and _GATE_WITH_LINE_COMMENTS.search(text) is not None


def is_suspect(text: bytes) -> bool:
    """The cheap test: False means that nothing in this text, itself, changes the session.

    Parameters: `text`, one or several statements in any encoding that contains ASCII.
    """
    # Applications say the same few things again and again.
    return _remembered(text) if len(text) <= REMEMBERED_LENGTH else _is_suspect(text)


def _is_suspect(text: bytes) -> bool:
    # A search for one word takes a few dozen nanoseconds, a regular expression of all of them a hundred times as much.
    lowered = text.lower()
    if not (
        b"temp" in lowered
        or b'u&"' in lowered
        or b"pg_settings" in lowered
        or (b"(" in lowered and _calls_suspect(lowered))
        or _FIRST_WORD.match(lowered) is not None
    ):
        # Nothing at the beginning and nothing anywhere: what is left are further statements, and those behind comments.
        end = lowered.find(b";")
        if (end < 0 or end >= len(lowered) - 2) and b"/*" not in lowered and b"--" not in lowered:
            return False
        if not any(word in lowered for word in _STATEMENT_WORDS):
            return False
    return (_GATE_WITH_LINE_COMMENTS if b"--" in lowered else _GATE).search(text) is not None


def _calls_suspect(lowered: bytes) -> bool:
    if (
        b"tval" in lowered
        or b"currval" in lowered
        or b"setseed" in lowered
        or b"dblink" in lowered
        or b"crosstab" in lowered
        or b"connectby" in lowered
    ):
        return True
    return b"_" in lowered and (
        b"set_config" in lowered
        or b"advisory_" in lowered
        or b"session_setup" in lowered
        or b"_slot" in lowered
        or b"backup" in lowered
        or b"ts_stat" in lowered
        or b"ts_rewrite" in lowered
        or b"query_to_xml" in lowered
        or b"xpath_table" in lowered
    )


_remembered: Final = lru_cache(maxsize=1024)(_is_suspect)


def examine(text: bytes, standard_strings: bool) -> Suspicion | None:
    """What a suspect text may change in the session, or None if the words that looked suspect were only data.

    Parameters: `text`, whole; `standard_strings`, the session's standard_conforming_strings.
    """
    examined = _examined if len(text) <= REMEMBERED_LENGTH else _examine_whole
    return examined(text, standard_strings)


def examine_part(text: bytes) -> Suspicion | None:
    """The same for a text of which nobody knows where its strings begin and end: more is suspected, not less."""
    return _examine(text, text, _RAW)


def _examine_whole(text: bytes, standard_strings: bool) -> Suspicion | None:
    return _examine(bare(text, standard_strings), text, _BARE)


_examined: Final = lru_cache(maxsize=1024)(_examine_whole)


def _examine(text: bytes, whole: bytes, patterns: _Patterns) -> Suspicion | None:
    ask = {kind for pattern, kind in patterns.kinds if pattern.search(text)}
    if _TEMPORARY_SCHEMA.search(whole) or (b"\\" in whole and _SETS_PATH.search(whole)):
        # A search path may be a string.
        ask.add(TEMPORARY)
    pins: set[str] = set()
    if _SEQUENCE.search(text):
        pins.add(SEQUENCE)
    if patterns.library.search(text):
        pins.add(LIBRARY)
    if patterns.unaskable.search(text):
        pins.add(OPAQUE)
    names: set[str] = set()
    bound: set[int] = set()
    reset: set[str] = set()
    lowered = text.lower()
    local = any(_is_of_meaning(match["rest"]) for match in patterns.local.finditer(text))
    if b"pg_settings" in lowered and b"update" in lowered:
        pins.add(UNREADABLE)
    if b"set_config" in lowered:
        # Its first argument is a string, and so is only in the whole text.
        for match in _CONFIG.finditer(whole):
            name = _plain(match["name"]) if match["name"] is not None else None
            only_local = _LOCAL_CALL.match(whole, match.start()) is not None
            if only_local and name in MEANINGLESS:
                continue
            local = True
            if name == "seed":
                pins.add(OPAQUE)
            if name in (None, "search_path") and match["value"] is None:
                # Whatever is created from now on may be a temporary object.
                ask.add(TEMPORARY)
            if only_local:
                continue
            argument = _CONFIG_ARGUMENT.match(whole, match.start())
            if name is not None:
                names.add(name)
            elif argument is not None:
                bound.add(int(argument["number"]))
            else:
                pins.add(UNREADABLE)
    for match in patterns.set.finditer(text):
        found = _set_names(match["rest"])
        if found is None:
            pins.add(UNREADABLE)
        else:
            names |= found[0]
            reset |= found[1]
    for match in patterns.reset.finditer(text):
        words = _reset_names(match["rest"])
        if words is None:
            pins.add(UNREADABLE)
        else:
            reset |= words
    reads_sequence = _READS_SEQUENCE.search(text) is not None
    runs_strings = sum(1 for _ in _RUNS_STRINGS.finditer(text))
    if runs_strings or patterns.code.search(text) or _UNICODE_NAME.search(text):
        # Code, or names in disguise: whatever can be asked is asked.
        ask |= set(ASKED)
        local = True
        reads_sequence = _READS_SEQUENCE.search(whole) is not None
        if _CHANGES_INSIDE.search(whole) or runs_strings > sum(1 for _ in _RUNS_ONE_STRING.finditer(text)):
            pins.add(UNREADABLE)
        if _SEQUENCE.search(whole):
            pins.add(SEQUENCE)
        if _LOADS_INSIDE.search(whole):
            pins.add(LIBRARY)
        if _UNASKABLE_INSIDE.search(whole):
            pins.add(OPAQUE)
    result = Suspicion(
        frozenset(ask),
        frozenset(pins),
        frozenset(names - _NOT_CARRIED),
        frozenset(reset - _NOT_CARRIED),
        reset_all=patterns.reset_all.search(text) is not None,
        sure_end=not pins and bool(names or reset) and _ONE_SET.match(text) is not None,
        reads_sequence=reads_sequence,
        defaults=patterns.defaults.search(text) is not None,
        forgets=patterns.forgets.search(text) is not None,
        local=local,
        bound=frozenset(bound),
    )
    return None if result == Suspicion() else result


def _plain(name: bytes) -> str | None:
    """The name as we keep it; None for one beyond ASCII, whose letters nobody here knows."""
    return name.decode().replace('"', "").lower() if name.isascii() else None


def _set_names(rest: bytes) -> tuple[set[str], set[str]] | None:
    for pattern, known in _SET_WORDS:
        if pattern.match(rest):
            reset = re.search(rb"\b(?:DEFAULT|LOCAL)\s*\Z", rest, re.IGNORECASE)
            return (set(), set(known)) if reset else (set(known), set())
    match = _SET_NAME.match(rest)
    if match is None:
        return None
    name = _plain(match["name"])
    if name is None:
        return None
    return (set(), {name}) if re.match(rb"DEFAULT\s*\Z", match["value"], re.IGNORECASE) else ({name}, set())


def _is_of_meaning(rest: bytes) -> bool:
    """Whether what follows SET LOCAL may give other statements' texts another meaning."""
    found = _set_names(rest)
    return found is None or not found[0] | found[1] <= MEANINGLESS


def _reset_names(rest: bytes) -> set[str] | None:
    for pattern, known in _RESET_WORDS:
        if pattern.match(rest):
            return set(known)
    match = _RESET_NAME.match(rest)
    if match is None:
        return None
    name = _plain(match["name"])
    if name is None:
        return None
    return set() if name == "all" else {name}
