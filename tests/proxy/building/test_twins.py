"""Compiled or interpreted, the core is the same: the same names, and the same verdicts about statements.

Each test compares the core that runs with what its sources say by themselves, so it says something of either.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import re
import sys
from collections import deque
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proxy.building.header import ROOT

from tidegate_proxy.core import COMPILED, look, suspect

CORE = ROOT / "proxy/tidegate_proxy/core"
TWINS = re.findall(r'^    "(\w+)",$', (ROOT / "setup.py").read_text(), re.MULTILINE)
"""The modules that setup.py compiles."""
SCANNER = look.Scanner()


def interpreted(name: str) -> ModuleType:
    """The module as its source says it, whatever else runs."""
    spec = importlib.util.spec_from_file_location(f"interpreted_{name}", CORE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def defined(body: list[ast.stmt]) -> set[str]:
    """The public names that these statements define."""
    names: set[str] = set()
    for each in body:
        match each:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(each.name)
            case ast.Assign():
                for target in each.targets:
                    names |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)) if each.value is not None:
                names.add(name)
    return {name for name in names if not name.startswith("_")}


def declared_in_c(name: str) -> set[str]:
    """Module variables that the .pxd file makes C's own: Python does not see them, nor needs to."""
    text = (CORE / f"{name}.pxd").read_text() if (CORE / f"{name}.pxd").exists() else ""
    lists = re.findall(r"^cdef (?!class\b)(?:\w+ )?([\w, ]+)$", text, re.MULTILINE)
    return {each.strip() for names in lists for each in names.split(",")}


def is_c_method(name: str, owner: str, method: str) -> bool:
    """Whether the .pxd file makes this method C's own."""
    text = (CORE / f"{name}.pxd").read_text() if (CORE / f"{name}.pxd").exists() else ""
    body = re.search(rf"^cdef class {owner}\b.*\n((?:\s.*\n|\n)*)", text, re.MULTILINE)
    return body is not None and re.search(rf"^    cdef (?:\w+ )*{method}\(", body[1], re.MULTILINE) is not None


@pytest.mark.parametrize("name", [name for name in TWINS if (CORE / f"{name}.py").exists()])
def test_a_module_has_the_public_names_of_its_source(name: str) -> None:
    module = importlib.import_module(f"tidegate_proxy.core.{name}")
    tree = ast.parse((CORE / f"{name}.py").read_text())
    names = defined(tree.body)
    assert names
    missing = {each for each in names - declared_in_c(name) if not hasattr(module, each)}
    imported = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    added = {each for each in vars(module) if not each.startswith("_")} - names - imported
    assert (missing, added) == (set(), set())
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            methods = {each for each in defined(owner.body) if not is_c_method(name, owner.name, each)}
            assert {each for each in methods if not hasattr(getattr(module, owner.name), each)} == set(), owner.name


@pytest.mark.parametrize("name", [name for name in TWINS if (CORE / f"{name}.pyx").exists()])
def test_what_a_stub_promises_is_there(name: str) -> None:
    promised = defined(ast.parse((CORE / f"{name}.pyi").read_text()).body)
    assert promised
    text = (CORE / f"{name}.pyx").read_text()
    assert promised <= set(re.findall(r"^(?:cdef class|cpdef|def)\b.*?(\w+)[(:]", text, re.MULTILINE))
    if COMPILED:
        module = importlib.import_module(f"tidegate_proxy.core.{name}")
        assert {each for each in promised if not hasattr(module, each)} == set()


BY_ITSELF: Any = interpreted("suspect")
WORDS = [
    ast.literal_eval(literal)
    for literal in re.findall(r"""\bb"[^"\n]*"|\bb'[^'\n]*'""", (CORE / "scan.pyx").read_text())
]
WORDS += [
    *BY_ITSELF._WORDS,
    *b"temporary execute setval nextval lastval pg_temp advisory_lock role user all hold".split(),
]
WORDS += b"select update t as begin commit on function trigger transaction local".split()
BETWEEN = [b" ", b"\n", b"\t", b"\x0b", b"\0", b";", b"; ", b"--", b"/*", b"*/", b"(", b")", b"'", b'"', b"\\", b"_"]
PIECES = (
    st.sampled_from(WORDS) | st.sampled_from(WORDS).map(bytes.upper) | st.sampled_from(BETWEEN) | st.binary(max_size=2)
)
TEXTS = st.lists(PIECES, max_size=8).map(b"".join)


def test_the_words_are_there_to_be_tried() -> None:
    assert {b"deallocate", b"set_config", b'u&"', b"tval"} <= set(WORDS)


@settings(max_examples=1000, deadline=None)
@given(TEXTS, TEXTS, TEXTS)
def test_what_looks_plain_in_one_pass_is_no_suspect(before: bytes, text: bytes, behind: bytes) -> None:
    data = before + text + behind
    if SCANNER.looks_plain(data, len(before), len(before) + len(text)):
        assert not BY_ITSELF._is_suspect(text)


def test_what_most_statements_are_looks_plain() -> None:
    for text in (
        b"SELECT 1",
        b"BEGIN",
        b"COMMIT;",
        b"UPDATE t SET a = $1 WHERE b = $2",
        b"INSERT INTO t VALUES (1, 'x')",
    ):
        assert SCANNER.looks_plain(b"?" + text, 1, 1 + len(text))


@settings(max_examples=1000, deadline=None)
@given(TEXTS, st.booleans())
def test_verdicts_are_those_of_the_source(text: bytes, standard_strings: bool) -> None:
    assert suspect.is_suspect(text) == BY_ITSELF._is_suspect(text)
    assert suspect.is_part_suspect(text) == BY_ITSELF.is_part_suspect(text)
    # Suspicions are of two classes, one of each module.
    assert fields_of(suspect.examine(text, standard_strings)) == fields_of(BY_ITSELF.examine(text, standard_strings))
    assert fields_of(suspect.examine_part(text)) == fields_of(BY_ITSELF.examine_part(text))


def fields_of(suspicion: Any) -> dict[str, Any] | None:
    return None if suspicion is None else dataclasses.asdict(suspicion)


@given(st.lists(st.sampled_from([b"\0", b"a", b"bc"])).map(b"".join), st.data())
def test_a_nul_is_found_where_python_finds_it(data: bytes, draw: st.DataObject) -> None:
    position = draw.draw(st.integers(0, len(data) + 1))
    limit = draw.draw(st.integers(0, len(data) + 2))
    assert SCANNER.find_nul(data, position, limit) == data.find(0, position, limit)
    assert SCANNER.cut(data, position, limit) == data[position:limit]


@given(st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9), st.integers(0, 300))
def test_a_message_gets_another_name(before: bytes, ahead: bytes, name: bytes, behind: bytes, to_come: int) -> None:
    message = b"B" + (4 + len(ahead) + 5 + len(behind) + to_come).to_bytes(4, "big") + ahead + b"known" + behind
    data = before + message
    at = len(before) + 5 + len(ahead)
    sent = SCANNER.renamed(data, len(before), len(data), len(data) + to_come, at, at + 5, name)
    assert SCANNER.spliced(data, at, at + 5, name) == before + message[: 5 + len(ahead)] + name + behind
    length = 4 + len(ahead) + len(name) + len(behind) + to_come
    assert sent == b"B" + length.to_bytes(4, "big") + ahead + name + behind


@given(st.lists(st.integers(0, 9)))
def test_what_is_owed_comes_first_in_first_out(steps: list[int]) -> None:
    owed: Any = look.Owed()
    expected: deque[int] = deque()
    for number, step in enumerate(steps):
        if step < 6:
            owed.append(number)
            expected.append(number)
        elif step == 6:
            owed.clear()
            expected.clear()
        elif step == 7:
            owed.extend(range(step))
            expected.extend(range(step))
        elif expected:
            assert owed.popleft() == expected.popleft()
        else:
            with pytest.raises(IndexError):
                owed.popleft()
            with pytest.raises(IndexError):
                owed[0]
        assert list(owed) == list(expected)
        assert len(owed) == len(expected)
        assert bool(owed) == bool(expected)
        assert (number in owed) == (number in expected)
        assert not expected or owed[0] == expected[0]


def test_what_a_long_queue_begins_with_is_found_without_a_look_at_the_rest() -> None:
    looked: list[object] = []

    class Token:
        def __eq__(self, other: object) -> bool:
            looked.append(other)
            return self is other

        __hash__ = object.__hash__

    owed: Any = look.Owed()
    tokens = [Token() for _ in range(5000)]
    owed.extend(tokens)
    each = iter(owed)
    assert next(each) is tokens[0]
    # Nothing was copied for that: what is there is what is seen.
    del each
    assert tokens[0] in owed
    assert len(looked) <= 1
