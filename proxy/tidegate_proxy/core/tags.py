"""What the tag of a CommandComplete says about the server connection, and about its client's session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegate_proxy.core.statements import ParseToken
from tidegate_proxy.core.suspect import TEMPORARY

if TYPE_CHECKING:
    from tidegate_proxy.core.server import ServerConnection


def read_tag(server: ServerConnection, tag: bytes) -> None:
    """Something was run by a server connection's client, or by the proxy, whose tag begins with one of READ_TAGS.

    Parameters: `tag`, with the zero byte at its end.
    """
    client = server.client
    if tag in (b"DISCARD ALL\0", b"DEALLOCATE ALL\0"):
        # What is parsed after it in the same request is there all the same.
        later = {token.statement for token in server.owed if isinstance(token, ParseToken)}
        server.prepared = {name: kept for name, kept in server.prepared.items() if kept in later}
        if client is not None:
            client.statements.forget_all(server)
            if tag == b"DISCARD ALL\0":
                server.sequences_of, server.sequences_used = client.pid, False
                if not server.executes:
                    # Behind nothing of the same request that may have pinned again.
                    client.session.all_discarded()
                client.watch.sequences.forgotten(server)
    elif tag == b"DEALLOCATE\0" and server.deallocating:
        deallocated = server.deallocating.pop(0)
        if deallocated is not None:
            name, statement = deallocated
            server.prepared.pop(statement.name, None)
            if client is not None:
                client.statements.forget(name)
    elif tag.startswith((b"ALTER ", b"DROP ", b"CREATE ")) and client is not None:
        # A new table may hide another one of its name; a temporary one does so for its own client only, and pins.
        if not tag.startswith(b"CREATE TABLE") or not client.session.asks_about(TEMPORARY):
            client.watch.schema_changed = True
    elif tag.startswith((b"INSERT ", b"COPY ", b"MERGE ")) and client is not None:
        client.watch.sequences.used(server)
    elif tag == b"DISCARD SEQUENCES\0":
        server.sequences_used = False
        if client is not None:
            server.sequences_of = client.pid
            if not server.executes and not client.watch.discards_and_takes:
                client.session.sequences_forgotten()
            client.watch.sequences.forgotten(server)
