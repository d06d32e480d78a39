"""Where SQL names prepared statements: EXECUTE and DEALLOCATE, also within EXPLAIN and CREATE TABLE AS."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from tidegate_proxy.core.lexer import masked


class Reference(NamedTuple):
    """A prepared statement's name in a text.

    `start` and `end` are its place, quotes included; `name` is what it means; `deallocates` tells DEALLOCATE from
    EXECUTE.
    """

    start: int
    end: int
    name: bytes
    deallocates: bool


_PART_OF_NAME: Final = rb"[\w$\x80-\xff]"
_WORD_END: Final = rb"(?!" + _PART_OF_NAME + rb")"
_NAME: Final = rb'\s*(?P<name>"_+"|(?<!' + _PART_OF_NAME + rb")[a-z_\x80-\xff]" + _PART_OF_NAME + rb"*(?!&))"
# [^;] for what a column list or storage parameters may be.
_TABLE: Final = (
    rb"CREATE\s+(?:(?:GLOBAL|LOCAL)\s+)?(?:(?:TEMP|TEMPORARY|UNLOGGED)\s+)?TABLE"
    rb"(?=[\s\"])[^;]*?(?<!" + _PART_OF_NAME + rb")AS\s+"
)
_REFERENCE = re.compile(
    rb"(?:\A|;)\s*(?:"
    rb"(?P<deallocate>DEALLOCATE" + _WORD_END + rb"(?:\s*PREPARE" + _WORD_END + rb"(?=\s*[^\s;]))?)"
    rb"|(?:EXPLAIN" + _WORD_END + rb"(?:\s*\([^()]*\)|\s*(?:ANALYZE|ANALYSE|VERBOSE)" + _WORD_END + rb")*\s*)?"
    rb"(?:" + _TABLE + rb")?EXECUTE" + _WORD_END + rb")" + _NAME,
    re.IGNORECASE,
)


def references(text: bytes, standard_strings: bool) -> list[Reference]:
    """The prepared statements that a text of one or more statements names, in order.

    DEALLOCATE ALL names none. Names in Unicode escapes, `U&"…"`, are not read.

    Parameters: `text`, SQL in an encoding that contains ASCII; `standard_strings`, the session's
    standard_conforming_strings.
    """
    lowered = text.lower()
    if b"execute" not in lowered and b"deallocate" not in lowered:
        return []
    found = []
    for match in _REFERENCE.finditer(masked(text, standard_strings)):
        start, end = match.span("name")
        written = text[start:end]
        deallocates = match["deallocate"] is not None
        name = written[1:-1].replace(b'""', b'"') if written[:1] == b'"' else written.lower()
        if not (deallocates and written.lower() == b"all"):
            found.append(Reference(start, end, name, deallocates))
    return found


def renamed(text: bytes, names: Iterable[tuple[Reference, bytes]]) -> bytes:
    """The text with other names in it.

    Parameters: `names`, some of the text's references, in order, each with its new name, which has no quote in it.
    """
    parts = []
    pos = 0
    for reference, name in names:
        # A quoted name was perhaps written without a space before it.
        parts += [text[pos : reference.start], b'"', name, b'"']
        pos = reference.end
    parts.append(text[pos:])
    return b"".join(parts)
