"""The console's commands as words: `PAUSE "My App"; SET stats_period = '10'`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tidegate_proxy.errors import ClientProtocolError

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
    |(?P<name>"(?:[^"]|"")*")
    |(?P<string>'(?:[^']|'')*')
    |(?P<end>;)
    |(?P<equals>=)
    |(?P<word>[^\s;='"]+)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Command:
    """One command: its first word in upper case, what follows as written, and whether an equals sign was in it."""

    verb: str
    arguments: tuple[str, ...]
    assigns: bool = False

    def __str__(self) -> str:
        return " ".join((self.verb, *self.arguments))[:100]


def parse(text: str) -> list[Command]:
    """The commands in a query, without empty ones.

    Raises: ClientProtocolError (42601) where a quote does not end.
    """
    commands: list[Command] = []
    words: list[str] = []
    assigns = False
    pos = 0
    while pos <= len(text):
        match = _TOKEN.match(text, pos)
        if match is None and pos < len(text):
            raise ClientProtocolError(
                f'unterminated quoted string at or near "{text[pos : pos + 50]}"', sqlstate="42601", hint=HINT
            )
        kind = match.lastgroup if match is not None else "end"
        if kind == "end" and words:
            commands.append(Command(words[0].upper(), tuple(words[1:]), assigns))
            words, assigns = [], False
        elif match is not None and kind in ("name", "string"):
            quote = match[0][0]
            words.append(match[0][1:-1].replace(quote * 2, quote))
        elif match is not None and kind == "word":
            words.append(match[0])
        elif kind == "equals":
            assigns = True
        if match is None:
            break
        pos = match.end()
    return commands


HINT = "SHOW HELP lists all commands."
