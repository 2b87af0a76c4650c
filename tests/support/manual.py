"""The texts, code blocks and tables of the pages in docs/."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from docutils import nodes
from docutils.core import publish_doctree

DOCS = Path(__file__).parents[2] / "docs"


def text_of(page: str) -> str:
    """Return the source of a page."""
    return (DOCS / f"{page}.rst").read_text("utf-8")


def code_blocks(page: str, language: str = "python") -> list[str]:
    """Return the code blocks in one language, in order."""
    found = re.findall(rf"\.\. code-block:: {re.escape(language)}\n\n((?:    .*\n|\n)+)", text_of(page))
    return [textwrap.dedent(block) for block in found]


def table_of(page: str, number: int = 0) -> list[list[str]]:
    """Return the rows of a table of a page as plain text, without the head."""
    document = publish_doctree(text_of(page), settings_overrides={"report_level": 2, "halt_level": 2})
    body = list(document.findall(nodes.tbody))[number]
    return [[" ".join(cell.astext().split()) for cell in row.children] for row in body.children]
