"""SQL with everything taken out that is no statement: strings, comments, dollar quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_WITH_BACKSLASHES: Final = rb"'(?:[^'\\]|''|\\.)*(?:'|\\?\Z)"


def _tokens(plain_string: bytes) -> re.Pattern[bytes]:
    # What PostgreSQL's scanner (src/backend/parser/scan.l) treats as a whole. A letter before E or $ makes it part of
    # a name. What has no end takes all the rest: to look for the next end from there, and from there again, would take
    # time that grows with the square of the text.
    return re.compile(
        rb"(?P<escaped>(?<![\w$\x80-\xff])[eE]" + _WITH_BACKSLASHES + rb")"
        rb"|(?P<string>" + plain_string + rb")"
        rb'|(?P<name>"(?:[^"]|"")*(?:"|\Z))'
        rb"|(?P<line>--[^\r\n]*)"
        rb"|(?P<block>/\*)"
        rb"|(?P<dollar>(?<![\w$\x80-\xff])\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$)",
        re.DOTALL,
    )


_STANDARD: Final = _tokens(rb"'(?:[^']|'')*(?:'|\Z)")
_BACKSLASHES: Final = _tokens(_WITH_BACKSLASHES)
# A string goes on after a line break, in the same manner as it began.
_GOES_ON: Final = re.compile(
    rb"(?:[ \t\f\v]++|--[^\r\n]*+)*+[\r\n](?:\s++|--[^\r\n]*+[\r\n])*+" + _WITH_BACKSLASHES, re.DOTALL
)
_COMMENT: Final = re.compile(rb"/\*|\*/")


NAME: Final = "name"
STRING: Final = "string"
COMMENT: Final = "comment"


def spans(text: bytes, standard_strings: bool = True) -> Iterator[tuple[str, int, int]]:
    """What is not to be read as words: the kind, start and end of each string, comment and quoted name, in order.

    Parameters: `text`, SQL in an encoding that contains ASCII; `standard_strings`, the session's
    standard_conforming_strings.
    Returns: as much as can be read; a string or comment without an end, for which PostgreSQL refuses the whole text,
    takes the rest with it.
    """
    token = _STANDARD if standard_strings else _BACKSLASHES
    pos = 0
    while (match := token.search(text, pos)) is not None:
        start, pos = match.span()
        kind = match.lastgroup
        if kind == "name":
            yield NAME, start, pos
            continue
        if kind == "line":
            yield COMMENT, start, pos
            continue
        if kind == "block":
            pos = _end_of_comment(text, pos)
            yield COMMENT, start, pos
            continue
        if kind == "escaped":
            while (more := _GOES_ON.match(text, pos)) is not None:
                pos = more.end()
        elif kind == "dollar":
            end = text.find(match[0], pos)
            pos = len(text) if end < 0 else end + len(match[0])
        yield STRING, start, pos


def bare(text: bytes, standard_strings: bool = True) -> bytes:
    """The text with each string as '', each comment as a space, and quoted names without semicolons."""
    parts: list[bytes] = []
    pos = 0
    for kind, start, end in spans(text, standard_strings):
        parts.append(text[pos:start])
        parts.append(b"''" if kind is STRING else b" " if kind is COMMENT else text[start:end].replace(b";", b"?"))
        pos = end
    parts.append(text[pos:])
    return b"".join(parts)


def masked(text: bytes, standard_strings: bool = True) -> bytes:
    """The text, every word at its place, with nothing but apostrophes for strings, spaces for comments, and underscores
    in quoted names."""
    parts: list[bytes] = []
    pos = 0
    for kind, start, end in spans(text, standard_strings):
        parts.append(text[pos:start])
        length = end - start
        if kind is NAME:
            # One without its end is no name.
            parts.append(
                b'"' + b"_" * (length - 2) + b'"' if length > 2 and text[end - 1 : end] == b'"' else b"'" * length
            )
        else:
            parts.append((b"'" if kind is STRING else b" ") * length)
        pos = end
    parts.append(text[pos:])
    return b"".join(parts)


def _end_of_comment(text: bytes, pos: int) -> int:
    depth = 1
    while depth:
        match = _COMMENT.search(text, pos)
        if match is None:
            return len(text)
        depth += 1 if match[0] == b"/*" else -1
        pos = match.end()
    return pos
