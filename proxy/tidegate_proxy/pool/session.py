"""Session parameters that a client asked for at its login, and the SQL that gives them to a server connection."""

from __future__ import annotations

from collections.abc import Mapping

# Lists: in SET a list in one string would be one name, so these take set_config, which reads it as the client meant it.
_LISTS = frozenset({"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"})

_WHO = ("session_authorization", "role")


def literal(text: str) -> str:
    """An SQL string that means `text` under every setting of client_encoding and standard_conforming_strings.

    Pure ASCII: some encodings let a backslash or a quote be half of another character.
    """
    parts = []
    for character in text:
        code = ord(character)
        if character in "'\\":
            parts.append("\\" + character)
        elif 32 <= code < 127:
            parts.append(character)
        elif code < 0x10000:
            parts.append(f"\\u{code:04x}")
        else:
            parts.append(f"\\U{code:08x}")
    return f"E'{''.join(parts)}'"


def identifier(name: str) -> str:
    """A parameter's name, quoted part by part (`app.x` has two)."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def changes(current: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """SQL that turns one set of session parameters into another; empty where they are equal."""
    # Who the user is decides what may be set, and a new session authorization ends the role: both are taken away first,
    # and given last.
    who = {name: current[name] for name in _WHO if name in current}
    becomes = {name: wanted[name] for name in _WHO if name in wanted}
    before = {name: value for name, value in current.items() if name not in _WHO}
    after = {name: value for name, value in wanted.items() if name not in _WHO}
    if who == becomes and before == after:
        return ""
    statements = [f"RESET {identifier(name)}" for name in who]
    # Reset first also what gets another value: of DateStyle, for one, a value may say only half.
    statements += [f"RESET {identifier(name)}" for name, value in before.items() if after.get(name) != value]
    for name, value in (after | becomes).items():
        if before.get(name) == value:
            continue
        if name.lower() in _LISTS:
            statements.append(f"SELECT pg_catalog.set_config({literal(name)}, {literal(value)}, false)")
        else:
            statements.append(f"SET {identifier(name)} TO {literal(value)}")
    return ";".join(statements)


def restored_where_reset(parameters: Mapping[str, str]) -> str:
    """SQL that sets each of these parameters that has no value of the session's, as after a RESET."""
    # The role comes last: it decides what may be set.
    names = sorted(parameters, key=lambda name: name in _WHO)
    values = ", ".join(f"({literal(name)}, {literal(parameters[name])})" for name in names)
    return (
        f"SELECT pg_catalog.set_config(n, v, false) FROM (VALUES {values}) AS restored (n, v) WHERE CASE"  # noqa: S608
        " WHEN EXISTS (SELECT FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) OPERATOR(pg_catalog.=) n)"
        " THEN NOT EXISTS (SELECT FROM pg_catalog.pg_settings WHERE pg_catalog.lower(name) OPERATOR(pg_catalog.=) n"
        " AND source OPERATOR(pg_catalog.=) 'session')"
        # Those that are not listed: the role, and custom ones.
        " ELSE COALESCE(pg_catalog.current_setting(n, true), '') OPERATOR(pg_catalog.=) ANY (ARRAY['', 'none']) END"
    )
