"""The shape of the package: which module may know which, and how long one gets."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import modules_after

import hubspot_identify

PACKAGE = Path(hubspot_identify.__file__).parent
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
MODULES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))


def test_arrows_point_one_way(tmp_path: Path) -> None:
    """Every module has its layer in pyproject.toml, and imports from those below alone; types aside.

    Those that call HubSpot know nothing of Django, not even inside a function.
    """
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-P", "-c", program, "--no-logo", "--no-cache", "--config", str(PYPROJECT)]
    # Where the checkout is not, so that it looks at what is installed.
    linter = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert linter.returncode == 0, linter.stdout + linter.stderr


def test_client_calls_without_the_site() -> None:
    """The client loads nothing of requests, users, sessions, templates, database or cache, by whatever way."""
    loaded = modules_after("import hubspot_identify.client")
    assert "hubspot_identify.client" in loaded
    site = ("contrib", "core.cache", "core.handlers", "db", "http", "middleware", "template", "test", "urls", "views")
    assert [name for name in loaded for part in site if f"{name}.".startswith(f"django.{part}.")] == []


@pytest.mark.parametrize("module", MODULES)
def test_long_modules_have_a_reason(module: str) -> None:
    """A module of more than 300 lines says in its docstring why it is not two."""
    source = (PACKAGE / module).read_text("utf-8")
    if len(source.splitlines()) > 300:
        assert "hence the length" in " ".join((ast.get_docstring(ast.parse(source)) or "").split())
