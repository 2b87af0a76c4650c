"""Packages that impersonate, verify and authenticate users, in a process of their own.

Their apps change the user table and decide which addresses are verified, so the suite's own site cannot install them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "cases"),
    [
        pytest.param("integrations.settings", "cases.py", id="hijack, impersonate, loginas, su and allauth"),
        pytest.param(
            "integrations.client_settings", "client_cases.py", id="rest_framework, simplejwt, ninja, hijack and otp"
        ),
    ],
)
def test_app_works_with_other_packages(settings: str, cases: str) -> None:
    """The tests of the module pass with the real packages."""
    ignored = [f"-Wignore::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning")]
    command = [sys.executable, "-m", "pytest", f"--ds={settings}", "-q", "-n", "0", *ignored]
    run = subprocess.run(
        [*command, str(HERE / "integrations" / cases)],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
