"""SECURITY.rst names a test for every threat, and no test that isn't there."""

from __future__ import annotations

import ast
import re
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


def names_of_tests(file: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_threat_is_whole() -> None:
    """Who would gain what, what is in the way, what remains, and at least one test."""
    assert len(threats()) > 10
    for threat in threats():
        fields = {field.children[0].astext(): field.children[1] for field in threat.findall(nodes.field)}
        assert list(fields) == ["Gain", "In the way", "Remains", "Proof"], threat.astext()
        assert list(fields["Proof"].findall(nodes.list_item)), threat.astext()


def test_every_test_is_there() -> None:
    """Each ``file::test`` is a function of that file."""
    named = [literal.astext() for literal in DOCUMENT.findall(nodes.literal) if literal.astext().startswith("tests/")]
    assert len(named) > 50
    parts = [re.fullmatch(r"(tests/[a-z_/]+\.py)::(test_\w+)", name) for name in named]
    assert [name for name, match in zip(named, parts, strict=True) if match is None] == []
    assert [match[0] for match in parts if match[2] not in names_of_tests(ROOT / match[1])] == []
