"""Packages that impersonate users and verify addresses, in a process of their own.

Their apps change the user table and decide which addresses are verified, so the suite's own site cannot install them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_app_works_with_hijack_impersonate_loginas_su_and_allauth() -> None:
    """The tests of ``integrations/cases.py`` pass with the real packages."""
    ignored = [f"-Wignore::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning")]
    command = [sys.executable, "-m", "pytest", "--ds=integrations.settings", "-q", "-n", "0", *ignored]
    run = subprocess.run(
        [*command, str(HERE / "integrations" / "cases.py")],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
