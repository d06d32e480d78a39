"""The `options` string of a startup packet: settings in the form of the server program's command line."""

from __future__ import annotations

from tidegate_proxy.errors import ClientProtocolError
from tidegate_proxy.protocol import wire

_SPACE = " \t\n\v\f\r"


def parse_options(text: str) -> dict[str, str]:
    """Read `-c name=value`, `-cname=value` and `--name=value`, as `PGOPTIONS` has them.

    Parameters: `text`, where a backslash makes the next character (a space, say) part of the word.
    Returns: settings in the order in which they take effect; of a name given twice, the last.
    Raises: ClientProtocolError for anything else, the server program's other flags included.
    """
    words = iter(_split(text))
    settings: dict[str, str] = {}
    for word in words:
        if word == "--":
            for extra in words:
                raise _invalid_argument(extra)
            break
        if word.startswith("--"):
            flag, assignment = "--", word[2:]
        elif word.startswith("-c"):
            flag, assignment = "-c ", word[2:] or next(words, "")
            if not assignment:
                raise _invalid_argument("-c")
        else:
            raise _invalid_argument(word)
        name, equals, value = assignment.partition("=")
        if not equals:
            raise ClientProtocolError(f"{flag}{assignment} requires a value", sqlstate="42601")
        if not name:
            raise ClientProtocolError('unrecognized configuration parameter ""', sqlstate="42704")
        name = name.replace("-", "_")
        settings.pop(name, None)
        settings[name] = value
        if len(settings) > wire.MAX_STARTUP_PARAMETERS:
            raise ClientProtocolError(
                f"too many settings in options: at most {wire.MAX_STARTUP_PARAMETERS} are allowed",
                sqlstate="54000",
            )
    return settings


def _invalid_argument(word: str) -> ClientProtocolError:
    return ClientProtocolError(
        f"invalid command-line argument for server process: {word}",
        sqlstate="42601",
        hint="Of the server's flags, options may hold -c name=value and --name=value.",
    )


def _split(text: str) -> list[str]:
    words: list[str] = []
    word: str | None = None
    characters = iter(text)
    for character in characters:
        if character in _SPACE:
            if word is not None:
                words.append(word)
            word = None
            continue
        if character == "\\":
            character = next(characters, "")
        word = (word or "") + character
    if word is not None:
        words.append(word)
    return words
