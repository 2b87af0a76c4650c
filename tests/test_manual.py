"""The pages in docs/ about logs, signals, testing, the doctor and the Python API agree with the code."""

from __future__ import annotations

import inspect
import json
import logging
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest
from django.core.management import BaseCommand
from support.clocks import GENEROUS_TIMEOUT
from support.manual import code_blocks, table_of, text_of
from support.server import TokenServer
from support.workers import wait_for_workers

import hubspot_identify
from hubspot_identify import exceptions, services, signals, testing
from hubspot_identify.doctor.findings import Finding
from hubspot_identify.management.commands import hubspot_doctor
from hubspot_identify.visitors import Visitor


def test_log_table_lists_every_logger() -> None:
    """The table has each module of the app that logs, and only levels that exist."""
    rows = table_of("docs/observability")
    modules = pkgutil.walk_packages(hubspot_identify.__path__, "hubspot_identify.")
    loggers = [getattr(import_module(module.name), "logger", None) for module in modules]
    assert {name for name, _, _ in rows} == {logger.name for logger in loggers if logger}
    assert {level for _, level, _ in rows} <= set(logging.getLevelNamesMapping())


def test_receivers_of_the_example_count_tokens_and_failures(hubspot: TokenServer) -> None:
    """The receivers to copy accept the arguments with which the signals are sent."""
    metrics = Mock()
    names: dict[str, Any] = {"metrics": metrics}
    exec(code_blocks("docs/observability")[1], names)
    try:
        services.get_token(Visitor("ada@example.com"), wait=GENEROUS_TIMEOUT)
        wait_for_workers()
        hubspot.answer(503)
        services.get_token(Visitor("grace@example.com"), wait=GENEROUS_TIMEOUT)
        wait_for_workers()
    finally:
        signals.token_created.disconnect(names["count_token"])
        signals.token_failed.disconnect(names["count_failure"])
    assert metrics.increment.mock_calls == [
        call("hubspot.tokens", tags=[""]),
        call("hubspot.failures", tags=["", "UnavailableError"]),
    ]


@pytest.mark.slow
def test_examples_for_test_suites_pass(tmp_path: Path) -> None:
    """The tests to copy pass with pytest and with Django's ``TestCase``, in a site whose chat is disabled in tests."""
    off, plugin, tests, django_tests, _ = code_blocks("docs/testing")
    (tmp_path / "settings_of_site.py").write_text(f"from settings import *\n{off}")
    (tmp_path / "conftest.py").write_text(plugin)
    (tmp_path / "test_with_pytest.py").write_text(tests)
    (tmp_path / "test_with_django.py").write_text(django_tests)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-c", "/dev/null"]
    paths = f"--override-ini=pythonpath={tmp_path} {Path(__file__).parent}"
    run = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--ds=settings_of_site", paths],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.splitlines()[-1].startswith("5 passed in"), run.stdout + run.stderr


def test_fake_has_the_documented_attributes() -> None:
    """Each name in the page's list of attributes is one of the fake's."""
    lines = re.findall(r"^``.*``$", text_of("docs/testing"), re.MULTILINE)
    names = [name for line in lines for name in re.findall(r"``(\w+)", line)]
    fake = testing.FakeHubSpot()
    assert "identity_of" in names
    assert [name for name in names if not hasattr(fake, name)] == []


def test_keys_of_the_doctors_json_are_documented() -> None:
    """The page lists the keys of a finding in the JSON output."""
    (keys,) = re.findall(r'\[\{("account".*?)\}\]', text_of("docs/doctor"), re.DOTALL)
    assert json.loads(f"[{keys}]") == ["account", *(field.name for field in fields(Finding))]


def test_options_of_the_doctor_are_documented() -> None:
    """The page explains the options of the command that are not Django's."""
    documented = re.findall(r"^``(--\w+)", text_of("docs/doctor"), re.MULTILINE)
    parser = hubspot_doctor.Command().create_parser("manage.py", "hubspot_doctor")
    django = BaseCommand().create_parser("manage.py", "another")
    assert set(documented) == {*parser._option_string_actions} - {*django._option_string_actions}


def test_reference_lists_every_public_function() -> None:
    """The reference has each function of ``services``, and each exception has a docstring."""
    (listed,) = re.findall(
        r"automodule:: hubspot_identify\.services\n +:members: ((?:.+\n +)*.+)", text_of("docs/reference")
    )
    functions = {
        name
        for name, value in vars(services).items()
        if inspect.isfunction(value) and value.__module__ == services.__name__ and not name.startswith("_")
    }
    assert set(re.split(r",\s+", listed)) == functions | {"Identification"}
    classes = [value for value in vars(exceptions).values() if inspect.isclass(value)]
    assert all(value.__doc__ for value in classes if value.__module__ == exceptions.__name__)
