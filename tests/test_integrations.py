"""The packages that impersonate users and verify addresses, in a site and a process of their own.

Their apps change the user table and what "verified" means, so they can't be part of the suite's own site.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_beside_hijack_impersonate_loginas_su_and_allauth() -> None:
    """All of ``integrations/cases.py`` holds with the real packages."""
    others_warnings = [f"-Wignore::{kind}" for kind in ("DeprecationWarning", "PendingDeprecationWarning")]
    command = [sys.executable, "-m", "pytest", "--ds=integrations.settings", "-q", *others_warnings]
    run = subprocess.run(
        [*command, str(HERE / "integrations" / "cases.py")],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
