"""The deadline of a transaction, and the request that it is for, as its client says it without a round trip of its own.

Either by a comment at the very end of the text that begins the transaction, in a Query or in a Parse without parameter
types, or by a Query `SET tidegate.deadline_ms = '2500'` ahead of it. Neither reaches PostgreSQL. The comment may name
the request, too: it gets into the log, hence the few letters that it may have.
"""

from __future__ import annotations

import re

from tidegate_proxy.protocol.wire import QUERY

_COMMENT = re.compile(rb" ?/\* tidegate\.deadline_ms=([0-9]{1,10})(?:,request_id=([0-9A-Za-z-]{1,64}))? \*/\Z")
_SET = re.compile(
    rb"\s*SET\s+tidegate\.deadline_ms\s*(?:=|\s+TO\s)\s*(?:'([0-9]{1,10})'|([0-9]{1,10}))\s*;?\s*\Z", re.I
)


def cut_comment(message: bytes) -> tuple[bytes, float, bytes | None] | None:
    """Take the deadline and the request's id out of a message.

    Parameters: `message`, a whole Query, or a Parse that ends with a count of no parameter types.
    Returns: the message without the comment, the seconds from now to the deadline, 0 for none, and the id, None if it
    is not named; or None where there is no such comment.
    """
    behind = message[-1:] if message[0] == QUERY else message[-3:]
    text = message[5 : -len(behind)]
    found = _COMMENT.search(text)
    if found is None or behind.strip(b"\0"):
        return None
    body = text[: found.start()] + behind
    return message[:1] + (len(body) + 4).to_bytes(4, "big") + body, int(found[1]) / 1000, found[2]


def set_by(text: bytes) -> float | None:
    """The seconds from now to the deadline, 0 for none, if the text of a Query sets one, and nothing else."""
    found = _SET.match(text)
    return None if found is None else int(found[1] or found[2]) / 1000
