"""The recipes of docs/consent.rst that a server decides. Those of the browser are in ``browser/test_consent.py``."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest
from docutils.core import publish_doctree
from support.manual import DOCS, code_blocks

HERE = Path(__file__).parent


def test_with_django_cookie_consent() -> None:
    """All of ``integrations/consent_cases.py`` holds, in a site and a process with the real package."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--ds=integrations.consent_settings"),
            *("-Wignore::DeprecationWarning", "-Wignore::PendingDeprecationWarning"),
            str(HERE / "integrations" / "consent_cases.py"),
        ],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    ("cookie", "allowed"),
    [("chat", True), ("statistics,chat", True), ("", False), ("statistics", False), ("nochat", False), (None, False)],
)
def test_a_cookie_of_the_consent_manager(cookie: str | None, allowed: bool) -> None:
    """The manual's callable finds the answer in the cookie, and takes no other for it."""
    (block,) = [block for block in code_blocks("consent") if "COOKIES" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    request = HttpRequest()
    if cookie is not None:
        request.COOKIES["consent"] = cookie
    assert names["chat_allowed"](request) is allowed


def test_the_page_is_clean() -> None:
    """Docutils has no complaint, and Python can read every block of it."""
    text = (DOCS / "consent.rst").read_text("utf-8")
    publish_doctree(text, settings_overrides={"report_level": 2, "halt_level": 2})
    for block in code_blocks("consent"):
        ast.parse(block)
