"""Texts that nobody sends in good faith: endless, nested, broken. None leaks, none holds the proxy up."""

from __future__ import annotations

import struct

import pytest
from tests.support.proxy import ProxyProcess, StartProxy
from tests.support.rawclient import RawClient, bind, execute

from tidegate_proxy.core.suspect import examine, examine_part, is_part_suspect, is_suspect
from tidegate_proxy.protocol import encode, wire

SIZE = 1 << 16
LONG = 1 << 18
MEMORY = 48 << 20


@pytest.mark.parametrize(
    ("start", "piece", "end"),
    [
        (b"RESET a", b"\n", b";;"),
        (b"SET a TO '", b" ", b"';;"),
        (b"SET", b" ", b"!"),
        (b"SELECT '", b"\\'", b""),
        (b"SELECT E'", b"\\'", b"!"),
        (b"", b" E'\\", b""),
        (b"", b"$a", b"$"),
        (b"do $$", b"/*", b""),
        (b"set", b"--\n", b";"),
        (b"", b";DECLARE a ", b""),
        (b"", b";ALTER ROLE ", b"SET"),
        (b"", b"set_config('", b""),
        (b"", b"set_config('a', ", b""),
        (b"", b"ts_rewrite(", b""),
        (b"", b"ts_rewrite(()", b""),
        (b"ts_rewrite(", b"()", b"!"),
        (b"ts_rewrite(", b"a", b",!"),
        (b"", b"crosstab(''", b""),
        (b"set ", b'a."', b""),
        (b"set ", b"a.", b" "),
    ],
)
def test_a_text_is_judged_in_time_that_grows_with_its_length_alone(start: bytes, piece: bytes, end: bytes) -> None:
    # Were it to grow with the square, as it once did, each of these would take minutes.
    text = start + piece * (LONG // len(piece)) + end
    is_suspect(text)
    is_part_suspect(text)
    examine(text, True)
    examine(text, False)
    examine_part(text)


def setting(client: RawClient, name: str) -> bytes:
    row = next(body for kind, body in client.query(f"SELECT current_setting('{name}')") if kind == "D")
    return row[6:]


@pytest.mark.parametrize(
    "filler", [b"/*" + b"x" * 1021 + b"*/", b"-- ' $$ /* set\n" + b"y" * 1000 + b"--\n", b"SELECT '; \\'';"]
)
def test_a_hundred_megabytes_with_a_set_at_their_end(narrow_proxy: ProxyProcess, filler: bytes) -> None:
    size = 100 << 20 if filler.startswith(b"/*") else 20 << 20
    if not filler.startswith(b"/*"):
        filler = b"/*" + filler.replace(b"/*", b"").replace(b"*/", b"") + b"*/"
    block = filler * ((1 << 20) // len(filler))
    blocks = size // len(block)
    last = b"\nSET work_mem TO '1234kB'\0"
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        before = narrow_proxy.resident_memory()
        most = before
        one.send(b"Q" + struct.pack("!I", 4 + blocks * len(block) + len(last)))
        for _ in range(blocks):
            one.send(block)
            most = max(most, narrow_proxy.resident_memory())
        one.send(last)
        assert "E" not in one.kinds_until()
        assert most - before < MEMORY
        assert setting(two, "work_mem") == b"4MB"
        assert setting(one, "work_mem") == b"1234kB"


def test_no_part_of_a_long_text_begins_a_statement_because_it_begins_there(narrow_proxy: ProxyProcess) -> None:
    text = b"SELECT '" + b"    set of things,  " * ((SIZE + 5000) // 20) + b"'\0"
    data = b"Q" + struct.pack("!I", 4 + len(text)) + text
    with RawClient(narrow_proxy.parameters) as one:
        for at in range(0, len(data), 1021):
            one.send(data[at : at + 1021])
        assert "E" not in one.kinds_until()
        assert "pinned" not in narrow_proxy.log


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64, 200])
def test_a_set_that_is_split_between_two_parts_of_a_long_text(narrow_proxy: ProxyProcess, cut: int) -> None:
    start = b"/* " + b"x" * (SIZE + 1000) + b" */ -- " + b"c" * 300 + b"\n"
    end = b"SET work_mem TO '1234kB'" + b" " * 200 + b"\0"
    data = b"Q" + struct.pack("!I", 4 + len(start) + len(end)) + start + end
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        at = len(data) - len(end) + cut
        one.send(data[:at])
        for place in range(at, at + 40):
            one.send(data[place : place + 1])
        one.send(data[at + 40 :])
        assert "E" not in one.kinds_until()
        assert setting(one, "work_mem") == b"1234kB"
        # Where a part ended in the midst of the name, the client is pinned: nobody else sees it either way.
        one.send(encode.terminate())
        assert setting(two, "work_mem") == b"4MB"


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT '\xff'; SET work_mem TO '1234kB'",
        b"SET app.x TO '\xc3\x28'",
        b"SET app.\xff TO 'x'",
        b"SELECT 1\0; SET work_mem TO '1234kB'",
        b"SET work_mem TO '1234kB'\0SET lock_timeout TO 1",
        b"\0",
        b"/* /* */ SET work_mem TO '1234kB'",
        b"SELECT $a$; SET work_mem TO '1234kB'",
    ],
)
@pytest.mark.parametrize("extended", [False, True])
def test_texts_that_postgresql_refuses_change_nothing(start_proxy: StartProxy, text: bytes, extended: bool) -> None:
    # Two, for what nobody can read may keep its client where it is.
    proxy = start_proxy(default_pool_size=2)
    data = encode.message(wire.QUERY, text + b"\0")
    if extended:
        data = encode.message(wire.PARSE, b"\0" + text + b"\0\0\0") + bind() + execute() + encode.sync()
    with RawClient(proxy.parameters) as one, RawClient(proxy.parameters) as two:
        with RawClient(proxy.database.parameters) as direct:
            direct.send(data)
            expected = direct.error_until()
            one.send(data)
            assert one.error_until()["C"] == expected["C"]
            own = setting(direct, "work_mem")
        one.query("BEGIN")
        assert setting(two, "work_mem") == b"4MB"
        assert setting(one, "work_mem") == own


def test_thousands_of_statements_in_one_query(narrow_proxy: ProxyProcess) -> None:
    with RawClient(narrow_proxy.parameters) as one, RawClient(narrow_proxy.parameters) as two:
        one.query(";".join(f"SET app.p{n} TO '{n}'" for n in range(1000)))
        row = "SELECT coalesce(current_setting('app.p999', true), '')"
        assert ("D", b"\0\x01\0\0\0\0") in two.query(row)
        assert ("D", b"\0\x01\0\0\0\x03999") in one.query(row)
