"""What is shown and logged of a statement holds none of its values."""

from __future__ import annotations

import pytest

from tidegate_proxy.fingerprint import fingerprint, kind, normalized


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"SELECT 'secret', 4711, 1.5e-3, .5, 0xff", "SELECT ?, ?, ?, ?, ?"),
        (b"SELECT $1, t1.c2 FROM t1 WHERE a IN (1, 2,3)", "SELECT $1, t1.c2 FROM t1 WHERE a IN (?...)"),
        (b"INSERT INTO t VALUES (1, 'a'), (2, 'b')", "INSERT INTO t VALUES (?...)"),
        (b"/* trace 123 */ SELECT $$secret$$ -- 5\n;", "SELECT ?"),
        (b"SELECT E'it\\'s secret' , \"Name 1\"", 'SELECT ? , "Name ?"'),
        (b"SELECT 'no end, secret 5", "SELECT ?"),
    ],
)
def test_constants_and_comments_are_gone(text: bytes, shown: str) -> None:
    assert normalized(text) == shown


def test_a_string_ends_where_the_session_has_it_end() -> None:
    assert normalized(b"SELECT 'a\\' secret 5', 6", standard_strings=False) == "SELECT ?, ?"


def test_fingerprints_do_not_depend_on_values_spaces_and_case() -> None:
    assert fingerprint(b"SELECT  1") == fingerprint(b"select 27")
    assert fingerprint(b"SELECT a") != fingerprint(b"SELECT b")


@pytest.mark.parametrize(
    ("text", "word"),
    [(b"  select 1", "SELECT"), (b"/* x */ CREATE TABLE t ()", "CREATE TABLE"), (b"(SELECT 1)", "SELECT"), (b"", "")],
)
def test_kinds_of_statements(text: bytes, word: str) -> None:
    assert kind(text) == word
