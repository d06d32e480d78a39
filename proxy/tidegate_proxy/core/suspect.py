"""Does this statement's text look as if it might change the session? A cheap test that may say yes too often.

The statement kinds that change a session do so as a statement's first word, so those words count at the start of the
text, after a semicolon and after a comment; functions and TEMP count anywhere. `UPDATE t SET a = 1` is thus no suspect,
nor is SET LOCAL, which ends with its transaction.
"""

from __future__ import annotations

import re

_FIRST_WORDS = {
    "set": rb"SET\s+(?!LOCAL\b|TRANSACTION\b|CONSTRAINTS\b)",
    "reset": rb"RESET\b",
    "prepare": rb"PREPARE\s+(?!TRANSACTION\b)",
    "deallocate": rb"DEALLOCATE\b",
    "discard": rb"DISCARD\b",
    "listen": rb"LISTEN\b",
    "unlisten": rb"UNLISTEN\b",
    "declare": rb"DECLARE\b[^;]*?\bHOLD\b",
    "load": rb"LOAD\b",
    "do": rb"DO\b",
    "call": rb"CALL\b",
}
_ANYWHERE = {
    "set_config": rb"set_config\b",
    "advisory lock": rb"pg_(?:try_)?advisory_(?:un)?lock",
    "temporary object": rb"\b(?:TEMP|TEMPORARY)\b|\bpg_temp\b",
    "sequence": rb"\b(?:nextval|currval|lastval|setval)\b",
}


def _named(words: dict[str, bytes]) -> bytes:
    return b"|".join(b"(?P<%s>%s)" % (name.replace(" ", "_").encode(), pattern) for name, pattern in words.items())


_SUSPECT = re.compile(
    rb"(?:\A|;|\*/|--[^\n]*\n)\s*(?:" + _named(_FIRST_WORDS) + rb")|" + _named(_ANYWHERE),
    re.IGNORECASE,
)


def suspicion(text: bytes) -> str | None:
    """The kind of statement that makes this text a suspect, or None.

    Parameters: `text`, one or several statements in any encoding that contains ASCII.
    """
    found = _SUSPECT.search(text)
    if found is None:
        return None
    return (found.lastgroup or "unknown").replace("_", " ")
