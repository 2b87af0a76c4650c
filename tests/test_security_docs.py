"""SECURITY.rst names a test for every threat, and each of these tests exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree

ROOT = Path(__file__).parents[1]
DOCUMENT = publish_doctree(
    (ROOT / "SECURITY.rst").read_text("utf-8"), settings_overrides={"report_level": 2, "halt_level": 2}
)


def threats() -> list[nodes.section]:
    (section,) = [
        found for found in DOCUMENT.findall(nodes.section) if found.next_node(nodes.title).astext() == "Threats"
    ]
    return [child for child in section.children if isinstance(child, nodes.section)]


@cache
def names_of_tests(file: Path) -> set[str]:
    """The test functions of a file."""
    return {
        node.name
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_threat_has_all_fields_and_a_test() -> None:
    """Each threat says what an attacker would gain, what prevents it, what remains, and which tests prove it."""
    assert len(threats()) > 10
    fields = [list(threat.findall(nodes.field)) for threat in threats()]
    names = {tuple(field.children[0].astext() for field in of_threat) for of_threat in fields}
    assert [len(of_threat) for of_threat in names] == [4]
    assert all(list(of_threat[-1].findall(nodes.list_item)) for of_threat in fields)


def test_every_named_test_exists() -> None:
    """Each ``file::test`` is a function of that file."""
    named = [literal.astext() for literal in DOCUMENT.findall(nodes.literal) if literal.astext().startswith("tests/")]
    assert len(named) > 50
    assert [name for name in named if not re.fullmatch(r"tests/[a-z_/]+\.py::test_\w+", name)] == []
    parts = [name.split("::") for name in named]
    assert [(file, test) for file, test in parts if test not in names_of_tests(ROOT / file)] == []
