"""The checks of the project, for ``nox`` on any machine and for ``.ci/run``.

``nox -l`` lists them. Once their environments are made, ``nox -R`` runs them again without any network.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import nox

#: What is supported: Django versions by the Python that each is tested on. The first runs on the lowest
#: versions of all dependencies, the others on the newest.
MATRIX = {"3.11": "5.2", "3.12": "6.0", "3.13": "6.1"}
COVERAGE = 100

nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False

HERE = Path(__file__).parent


@nox.session
def lint(session: nox.Session) -> None:
    """Style, including ruff's security rules, and types, including those of the tests."""
    session.install("-e", ".[dev,test]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("validate-pyproject", "pyproject.toml")


@nox.session
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the app's dependencies. Warns if the advisory service cannot be reached."""
    session.install("pip-audit>=2.9")
    report = Path(session.create_tmp()) / "audit.json"
    report.unlink(missing_ok=True)
    session.run("pip-audit", "--format=json", f"--output={report}", ".", success_codes=[0, 1])
    try:
        found = json.loads(report.read_text())["dependencies"]
    except FileNotFoundError:
        session.warn("NOT AUDITED: the advisory service could not be reached.")
        return
    for package in found:
        if "skip_reason" in package:
            session.warn(f"NOT AUDITED: {package['name']}: {package['skip_reason']}")
        for vulnerability in package.get("vulns", []):
            session.warn(f"{package['name']} {package['version']}: {vulnerability['id']}")
    audited = [package for package in found if "skip_reason" not in package]
    session.log(f"{len(audited)} of {len(found)} packages looked up.")
    if any(package["vulns"] for package in audited):
        session.error("Known vulnerabilities.")


@nox.session
def package(session: nox.Session) -> None:
    """The built files are complete and contain nothing else, and the package index can render the README."""
    session.install("-e", ".[dev]")
    wheel, sdist = build(session)
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    session.run("check-wheel-contents", str(wheel))
    session.run("check-manifest")
    tracked = session.run("git", "ls-files", "hubspot_identify", external=True, silent=True)
    expected = set(str(tracked).split())
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if packed != expected:
        session.error(f"Only in the wheel or only in the repository: {sorted(packed ^ expected)}")
    session.log(f"The wheel holds the {len(packed)} files of hubspot_identify/ and nothing else.")


@nox.session
def docs(session: nox.Session) -> None:
    """The manual as web pages. Warnings of Sphinx are errors."""
    session.install("-e", ".[docs]")
    pages = Path(session.create_tmp()) / "pages"
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-E", "docs", str(pages))
    session.log(f"Open {pages / 'index.html'}")


@nox.session
def quick(session: nox.Session) -> None:
    """The tests that need neither a browser nor much time, on this Python."""
    session.install("-e", ".[demo,test]")
    session.run("pytest", "-m", "not browser and not slow", *session.posargs)


@nox.session(python=list(MATRIX))
def tests(session: nox.Session) -> None:
    """The tests of the sdist against the installed wheel, as a packager would run them."""
    wheel, sdist = build(session)
    python = str(session.python)
    pins = [f"django~={MATRIX[python]}.0"]
    if python == min(MATRIX):
        dependencies = nox.project.load_toml(HERE / "pyproject.toml")["project"]["dependencies"]
        pins = [dependency.replace(">=", "==") for dependency in dependencies]
    session.install(f"{wheel}[demo,test]", *pins)
    # Not an install in nox's sense: `nox -R`, which skips those, would test the wheel of last time.
    session.run("pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", str(wheel))
    session.run("pip", "list", "--format=freeze")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (source,) = Path(folder).iterdir()
        shutil.rmtree(source / "hubspot_identify")  # the tests are to find the wheel
        session.chdir(source)
        data = {"COVERAGE_FILE": str(HERE / f".coverage.{python}")}
        selected = session.posargs
        # The browsers' part does not depend on the version of Python: the newest is enough.
        if python == max(MATRIX):
            data["COVERAGE_CONCURRENCY"] = "greenlet"
            selected = selected or ["--numprocesses=3"]  # the tests wait for browsers for half of their time
        elif not selected:
            selected = ["-m", "not browser"]
        session.run("pytest", "--cov", "--cov-report=", *selected, env=data)


@nox.session
def coverage(session: nox.Session) -> None:
    """The lines and branches that all runs of ``tests`` together have reached."""
    session.install("coverage>=7.10")
    session.run("coverage", "combine", "--keep", *sorted(str(path) for path in HERE.glob(".coverage.*")))
    session.run("coverage", "report", f"--fail-under={COVERAGE}")


@cache
def dist() -> Path:
    """A folder for the built files of this run of nox."""
    folder = tempfile.mkdtemp(prefix="dist-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


def build(session: nox.Session) -> tuple[Path, Path]:
    """The wheel, by way of the sdist, and the sdist itself; built once."""
    session.install("build>=1.3", "setuptools>=77")
    if not any(dist().iterdir()):
        session.run("python", "-m", "build", "--no-isolation", f"--outdir={dist()}", silent=True)
    (wheel,), (sdist,) = dist().glob("*.whl"), dist().glob("*.tar.gz")
    return wheel, sdist
