"""The structure of the package: which module may import which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import modules_after

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.mark.slow
def test_import_contracts_hold(tmp_path: Path) -> None:
    """Modules import only from the layers below their own, and the modules that call HubSpot do not import Django.

    The layers and contracts are in pyproject.toml.
    """
    program = "from importlinter.cli import lint_imports_command as lint; lint()"
    command = [sys.executable, "-P", "-c", program, "--no-logo", "--no-cache", "--config", str(PYPROJECT)]
    # In another folder than the checkout, so that it examines the installed package.
    linter = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert linter.returncode == 0, linter.stdout + linter.stderr


@pytest.mark.slow
def test_client_loads_no_part_of_a_site() -> None:
    """Importing the client imports nothing about requests, users, sessions, templates, databases or caches."""
    loaded = modules_after("import hubspot_identify._hubspot.client")
    assert "hubspot_identify._hubspot.client" in loaded
    site = ("contrib", "core.cache", "core.handlers", "db", "http", "middleware", "template", "test", "urls", "views")
    assert [name for name in loaded for part in site if f"{name}.".startswith(f"django.{part}.")] == []
