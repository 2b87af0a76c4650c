"""The recipes of docs/consent.rst for the server. Those for the browser are in ``browser/test_consent.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest
from support.manual import code_blocks

HERE = Path(__file__).parent


@pytest.mark.slow
def test_recipe_works_with_django_cookie_consent() -> None:
    """The tests of ``integrations/consent_cases.py`` pass in a process that has the real package installed."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "0", "--ds=integrations.consent_settings"),
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
    [("statistics,chat", True), ("", False), ("nochat", False), (None, False)],
)
def test_cookie_of_a_consent_manager_decides(cookie: str | None, allowed: bool) -> None:
    """The callable of the manual accepts only the exact name in the cookie."""
    (block,) = [block for block in code_blocks("docs/consent") if "COOKIES" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    request = HttpRequest()
    if cookie is not None:
        request.COOKIES["consent"] = cookie
    assert names["chat_allowed"](request) is allowed
