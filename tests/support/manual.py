"""The texts, code blocks and tables of the manual: the README and the pages in docs/."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import roles

ROOT = Path(__file__).parents[2]

roles.register_generic_role("doc", nodes.inline)  # Sphinx's link to another page


def text_of(page: str) -> str:
    """Return the source of a page, such as ``README`` or ``docs/testing``."""
    return (ROOT / f"{page}.rst").read_text("utf-8")


@cache
def tree_of(page: str) -> nodes.document:
    """Return a page as docutils parses it. Its warnings are errors."""
    overrides = {"syntax_highlight": "none", "report_level": 2, "halt_level": 2}
    return publish_doctree(text_of(page), settings_overrides=overrides)


def code_blocks(page: str, language: str = "python") -> list[str]:
    """Return the code blocks in one language, in order."""
    return [block.astext() for block in tree_of(page).findall(nodes.literal_block) if language in block["classes"]]


def table_of(page: str, number: int = 0) -> list[list[str]]:
    """Return the rows of a table of a page as plain text, without the head."""
    body = list(tree_of(page).findall(nodes.tbody))[number]
    return [[" ".join(cell.astext().split()) for cell in row.children] for row in body.children]
