"""What a statement is without its values: fit for logs and for the console."""

from __future__ import annotations

import hashlib
import re

from tidegate_proxy.core.lexer import COMMENT, STRING, spans

_NUMBER = re.compile(r"(?<![\w$.])(?:0[xob][0-9a-f_]+|\d[\d_]*(?:\.[\d_]*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)", re.I)
_SPACE = re.compile(r"\s+")
_LIST = re.compile(r"\((?:\s*\?\s*,)+\s*\?\s*\)")
_VALUES = re.compile(r"\(\?\.\.\.\)(?:\s*,\s*\(\?\.\.\.\))+")
_FIRST_WORD = re.compile(r"\W*([A-Za-z]+)(?:\s+([A-Za-z]+))?")
# Kinds that take a second word to tell.
_OF_TWO_WORDS = frozenset({"ALTER", "CREATE", "DROP", "SET", "START"})


def normalized(text: bytes, standard_strings: bool = True) -> str:
    """The statement with `?` for each string and number, without comments; lists of values are one.

    Parameters: `standard_strings`, the session's standard_conforming_strings, on which it depends where strings end.
    """
    parts: list[str] = []
    pos = 0
    for kind, start, end in spans(text, standard_strings):
        if kind not in (COMMENT, STRING):
            continue
        parts.append(_without_numbers(text[pos:start]))
        parts.append(" " if kind == COMMENT else "?")
        pos = end
    parts.append(_without_numbers(text[pos:]))
    plain = _SPACE.sub(" ", "".join(parts)).strip(" ;")
    return _VALUES.sub("(?...)", _LIST.sub("(?...)", plain))


def _without_numbers(text: bytes) -> str:
    return _NUMBER.sub("?", text.decode(errors="replace"))


def fingerprint(text: bytes, standard_strings: bool = True) -> str:
    """Sixteen hexadecimal digits, the same for statements that differ only in their constants, spaces and case."""
    return hashlib.sha256(normalized(text, standard_strings).lower().encode()).hexdigest()[:16]


def kind(text: bytes) -> str:
    """Its first word, or first two where one says little: "SELECT", "CREATE TABLE"; "" for none."""
    match = _FIRST_WORD.match(normalized(text[:1000]))
    if match is None:
        return ""
    first, second = match[1].upper(), (match[2] or "").upper()
    return f"{first} {second}" if first in _OF_TWO_WORDS and second else first
