"""Which line of the user's code it was, and whether a statement looks as if it changed the session."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from types import CodeType, FrameType
from typing import NamedTuple

from psycopg.sql import Composable

_OURS = {"tidegate", "psycopg", "contextlib", "sqlalchemy", "asyncio"}

# At the start of a text, after a semicolon, or after a comment. Not after any line break: "UPDATE t\nSET a = 1".
_START = r"(?:^|;|\*/|--[^\n]*\n)\s*"
_SUSPECT = re.compile(
    _START + r"(?:SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)|RESET\b|LISTEN\b|LOAD\b|PREPARE\b|DO\b|CALL\b)"
    r"|\bset_config\s*\(|\bTEMP(?:ORARY)?\b|\bpg_temp\b|\bWITH\s+HOLD\b|\bpg_(?:try_)?advisory_lock|\bsetseed\s*\(",
    re.IGNORECASE,
)
_PREPARES = re.compile(_START + r"(?:PREPARE\s+(?!TRANSACTION\b)|LOAD\b)", re.IGNORECASE)

_READS = re.compile(r"\s*(?:SELECT|WITH|VALUES|SHOW|TABLE)\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO|nextval|setval)\b|;", re.IGNORECASE)

# At the start of a text only: END after a semicolon may be PL/pgSQL's.
_ENDS = re.compile(
    r"\s*(?:COMMIT|END|ABORT|PREPARE\s+TRANSACTION|ROLLBACK(?!(?:\s+(?:WORK|TRANSACTION))?\s+TO\b))\b", re.IGNORECASE
)

LONGEST_REMEMBERED = 2000
"""Characters; the verdict on a longer text is found anew each time."""

LONGEST_TEXT = 100_000
"""Characters; a longer text is not searched but suspected."""


class Place(NamedTuple):
    """A line of code, turned into text only when it is written down."""

    code: CodeType
    line: int

    def __str__(self) -> str:
        return f"{self.code.co_filename}:{self.line}, in {self.code.co_name}"


_ours: dict[str, bool] = {}


def place(depth: int = 1) -> Place | None:
    """The innermost line that is neither ours nor psycopg's; None if there is none.

    Parameters: `depth`, how many callers are known to be ours.
    """
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        ours = _ours.get(name)
        if ours is None:
            ours = _ours[name] = name.partition(".")[0] in _OURS
        if not ours:
            return Place(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return None


class Verdict(NamedTuple):
    """What a statement may leave behind.

    - `suspect`: something in the session. `lasting`: something there that no reset takes away.
    - `writes`: data. False for what begins with SELECT, unless it says more; a function may still write.
    - `ends`: the transaction.
    """

    suspect: bool
    lasting: bool
    writes: bool
    ends: bool


def judge(query: object) -> Verdict:
    """Look at a statement's text; a word too many costs one question to the server, never a wrong result."""
    if not isinstance(query, str):
        if isinstance(query, bytes):
            query = query.decode("utf-8", "replace")
        elif isinstance(query, Composable):
            query = query.as_string(None)
        else:
            # A template string: its fixed parts.
            query = " ".join(str(part) for part in getattr(query, "strings", ("SET ",)))
    return _judge(query) if len(query) > LONGEST_REMEMBERED else _judge_short(query)


def _judge(text: str) -> Verdict:
    writes = _READS.match(text) is None or _WRITES.search(text) is not None
    ends = _ENDS.match(text) is not None
    if len(text) > LONGEST_TEXT:
        return Verdict(True, False, True, ends)
    if _SUSPECT.search(text) is None:
        return Verdict(False, False, writes, ends)
    return Verdict(True, _PREPARES.search(text) is not None, writes, ends)


_judge_short = lru_cache(maxsize=512)(_judge)
