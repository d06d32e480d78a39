"""The three syntaxes: ini with `%include`, connection strings with quotes, and the list of users."""

from __future__ import annotations

import re
from pathlib import Path

MAX_DEPTH = 10
"""How deep files may include each other; PgBouncer's own limit."""

Sections = dict[str, dict[str, str]]

_QUOTED_NAME = re.compile(r'"((?:[^"]|"")*)"\s*=\s*(.*)')
_PAIR = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*(?:'((?:[^']|'')*)'|(\S*))")
_USER = re.compile(r'\s*"((?:[^"]|"")*)"\s+"((?:[^"]|"")*)"')


def find(name: str, folder: Path) -> Path:
    """A file that the configuration names. PgBouncer takes it from the working directory; where there is none, from
    `folder`, the configuration's own."""
    path = Path(name)
    return path if path.is_absolute() or path.exists() else folder / path


def read_ini(path: Path, sections: Sections | None = None, depth: int = 0) -> Sections:
    """Read the file and what it includes.

    Returns: each section's keys with their values, both as they are written.
    Raises: ValueError that names file and line; OSError when a file can't be read.
    """
    found: Sections = {} if sections is None else sections
    if depth > MAX_DEPTH:
        raise ValueError(f"{path}: files include each other more than {MAX_DEPTH} deep")
    section = next(reversed(found), "")
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in ";#":
            continue
        if line.startswith("%include"):
            read_ini(find(line.removeprefix("%include").strip(), path.parent), found, depth + 1)
            section = next(reversed(found), "")
        elif line.startswith("["):
            if not line.endswith("]"):
                raise ValueError(f"{path}: line {number}: a section's name must be in brackets")
            section = line[1:-1].strip()
            # Includes go on in the latest one.
            found[section] = found.pop(section, {})
        else:
            if not section:
                raise ValueError(f"{path}: line {number}: stands before the first section")
            quoted = _QUOTED_NAME.fullmatch(line)
            key, separator, value = (quoted[1].replace('""', '"'), "=", quoted[2]) if quoted else line.partition("=")
            if not separator:
                raise ValueError(f'{path}: line {number}: must have the form "key = value"')
            found[section][key.strip()] = value.strip()
    return found


def parse_connection_string(text: str) -> dict[str, str]:
    """`host=a password='it''s'` as a dictionary. Raises: ValueError that says nothing of the values."""
    pairs: dict[str, str] = {}
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None or (match[2] is None and match[3].startswith("'")):
            raise ValueError(f"is not a connection string: see character {at + 1}")
        pairs[match[1].lower()] = match[3] if match[2] is None else match[2].replace("''", "'")
        at = match.end()
    return pairs


def read_users(path: Path) -> dict[str, str]:
    """Users with their passwords, MD5 hashes or SCRAM secrets. Raises: OSError."""
    found = {}
    for line in path.read_text().splitlines():
        match = _USER.match(line)
        if match is not None:
            found[match[1].replace('""', '"')] = match[2].replace('""', '"')
    return found
