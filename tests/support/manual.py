"""The code blocks of the pages in docs/, for tests that run them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def code_blocks(page: str, language: str = "python") -> list[str]:
    """The blocks of one language, in their order."""
    text = (DOCS / f"{page}.rst").read_text("utf-8")
    found = re.findall(rf"\.\. code-block:: {re.escape(language)}\n\n((?:    .*\n|\n)+)", text)
    return [textwrap.dedent(block) for block in found]
