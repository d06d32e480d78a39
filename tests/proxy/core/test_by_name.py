"""Names of prepared statements are found wherever PostgreSQL itself would take them for such."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.postgres import Database
from tests.support.rawclient import RawClient

from tidegate_proxy.core.by_name import references, renamed
from tidegate_proxy.core.lexer import masked
from tidegate_proxy.protocol import encode, wire


def names(text: bytes, standard_strings: bool = True) -> list[bytes]:
    return [found.name for found in references(text, standard_strings)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"EXECUTE st", [b"st"]),
        (b"execute ST (1, ';EXECUTE x')", [b"st"]),
        (b'EXECUTE "St;""a"""(1)', [b'St;"a"']),
        (b'EXECUTE"st"', [b"st"]),
        (b"/* EXECUTE a */ EXECUTE -- b\n st", [b"st"]),
        (b"EXECUTE/**/st;", [b"st"]),
        (b"DEALLOCATE st", [b"st"]),
        (b"DEALLOCATE PREPARE st", [b"st"]),
        (b'DEALLOCATE PREPARE"st"', [b"st"]),
        (b"DEALLOCATE prepare", [b"prepare"]),
        (b"DEALLOCATE PREPARE prepare ;", [b"prepare"]),
        (b"DEALLOCATE prepared", [b"prepared"]),
        (b"DEALLOCATE ALL", []),
        (b"DEALLOCATE PREPARE ALL", []),
        (b'DEALLOCATE "all"', [b"all"]),
        (b"EXPLAIN EXECUTE st", [b"st"]),
        (b"EXPLAIN (ANALYZE, FORMAT 'json') EXECUTE st(1)", [b"st"]),
        (b"EXPLAIN(COSTS off)EXECUTE st", [b"st"]),
        (b"EXPLAIN ANALYZE VERBOSE EXECUTE st", [b"st"]),
        (b"CREATE TABLE t AS EXECUTE st", [b"st"]),
        (b'CREATE TABLE"t"AS EXECUTE st', [b"st"]),
        (b'CREATE TEMP TABLE IF NOT EXISTS "AS EXECUTE a" (a, b) ON COMMIT DROP AS EXECUTE st(1)', [b"st"]),
        (b"EXPLAIN ANALYZE CREATE UNLOGGED TABLE t AS EXECUTE st WITH NO DATA", [b"st"]),
        (b"SELECT 0; EXECUTE st; DEALLOCATE st2;EXPLAIN EXECUTE st3", [b"st", b"st2", b"st3"]),
        (b"SELECT ';EXECUTE st'; SELECT $$;EXECUTE st$$; SELECT 1 AS \";EXECUTE st\"", []),
        (b"SELECT E'\\';EXECUTE st'", []),
        (b'EXECUTE U&"st"', []),
        (b"EXECUTEst; EXECUTE$1; EXECUTE", []),
        (b"GRANT EXECUTE ON FUNCTION f TO a", []),
        (b"CREATE TRIGGER g AFTER INSERT ON t EXECUTE FUNCTION f()", []),
        (b"CREATE FUNCTION f() RETURNS int AS 'EXECUTE st'", []),
        (b"EXECUTE \xc3\xa4\xc3\x84A", [b"\xc3\xa4\xc3\x84a"]),
        (b'EXECUTE "st', []),
        (b"SELECT '; EXECUTE st", []),
        (b"", []),
    ],
)
def test_where_names_are(text: bytes, expected: list[bytes]) -> None:
    assert names(text) == expected


def test_what_a_backslash_means_decides_where_a_string_ends() -> None:
    text = b"SELECT '\\'; EXECUTE a; --'; EXECUTE b"
    assert names(text, True) == [b"a"]
    assert names(text, False) == [b"b"]


def test_a_name_is_replaced_at_its_place() -> None:
    text = b"EXECUTE\"a\"('a'); DEALLOCATE b; EXECUTE c -- a"
    a, _, c = references(text, True)
    assert not a.deallocates
    assert renamed(text, [(a, b"x"), (c, b"y")]) == b'EXECUTE"x"(\'a\'); DEALLOCATE b; EXECUTE "y" -- a'
    assert renamed(text, []) == text


WORDS = 'EXECUTE|DEALLOCATE|PREPARE|EXPLAIN|(ANALYZE)|VERBOSE|CREATE TABLE t AS|SELECT 1|ALL|U&|a|"b;c"|$1|(1)|é'
PIECES = st.sampled_from([*WORDS.split("|"), ";", ";", "'", '"', "$$", "$x$", "/*", "*/", "--", "\n", " ", "E'", "\\"])
TEXTS = st.lists(PIECES, max_size=12).map(" ".join) | st.lists(PIECES, max_size=12).map("".join)


@given(text=TEXTS, standard_strings=st.booleans())
@settings(derandomize=True, database=None, deadline=None)
def test_any_text_is_read_without_changing_it(text: str, standard_strings: bool) -> None:
    data = text.encode()
    assert len(masked(data, standard_strings)) == len(data)
    found = references(data, standard_strings)
    assert renamed(data, []) == data
    # New names are found where the old ones were.
    new = [b"new%d" % number for number in range(len(found))]
    again = references(renamed(data, zip(found, new, strict=True)), standard_strings)
    assert [each.name for each in again] == new


@pytest.mark.parametrize("start", [b"EXECUTE", b"EXPLAIN", b"CREATE TABLE", b"", b"DEALLOCATE PREPARE"])
@pytest.mark.parametrize(
    "piece", [b" ", b" AS ", b"(", b"()", b";", b" VERBOSE", b"; CREATE TABLE t", b'"', b"'", b"/*"]
)
def test_a_text_is_read_in_time_that_grows_with_its_length_alone(start: bytes, piece: bytes) -> None:
    # Were it to grow with the square, this would take minutes.
    references(start + piece * ((1 << 18) // len(piece)) + b"execute!", True)


VERBS = ["EXECUTE ", "DEALLOCATE ", "DEALLOCATE PREPARE ", "EXPLAIN EXECUTE ", "EXPLAIN (COSTS off) EXECUTE "]
VERBS += ["CREATE TEMP TABLE made AS EXECUTE ", "EXPLAIN ANALYZE VERBOSE CREATE TABLE made AS EXECUTE ", "execute/**/"]
BEFORE = [
    "",
    "SELECT 1;",
    "SELECT ';', $$;$$;",
    "-- ;\n",
    "/* ; /* */ */",
    'SELECT 1 AS ";" ;',
    "SELECT E'\\';';",
    ";;",
]
NAMED = ["st", "ST", '"st"', '"a;""b"', "prepare", "x$1", "é", '"EXECUTE a"', "  st", "\n--c\nst"]
AFTER = ["", ";", "(1)", "('a;')", " -- ;", ";SELECT 1", "; EXECUTE other", "'", "/*", "$$", "\\"]


@st.composite
def calls(draw: st.DrawFn) -> str:
    """A text that, most often, runs a statement that nobody has prepared."""
    text = "".join(draw(st.sampled_from(part)) for part in (BEFORE, VERBS, NAMED, AFTER))
    if draw(st.booleans()):
        where = draw(st.integers(0, len(text)))
        text = (
            text[:where]
            + draw(st.sampled_from([" ", "'", '"', "\n", ";", "/*", "*/", "--", "$$", "E'"]))
            + text[where:]
        )
    return text


@pytest.mark.parametrize("standard_strings", ["on", "off"])
def test_what_postgresql_does_not_find_by_its_name_we_had_found(database: Database, standard_strings: str) -> None:
    known = []
    with RawClient(database.parameters) as session:
        session.query(f"SET escape_string_warning TO off; SET standard_conforming_strings TO {standard_strings}")

        @given(text=calls())
        @settings(
            derandomize=True, database=None, deadline=None, max_examples=600, suppress_health_check=list(HealthCheck)
        )
        def check(text: str) -> None:
            session.send(encode.message(wire.QUERY, text.encode() + b"\0"))
            answer = session.read_until()
            error = next((body for kind, body in answer if kind == "E"), b"")
            if b"\0C26000\0" not in error:
                return
            missing = re.search(rb'Mprepared statement "(.*)" does not exist\0', error, re.DOTALL)
            assert missing is not None
            found = names(text.encode(), standard_strings == "on")
            assert found[:1] == [missing[1]], (text, found)
            known.append(missing[1])

        check()
    assert len(known) > 200
    assert len(set(known)) > 5
