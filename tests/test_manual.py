"""The pages in docs/ on the browser, doctor, test suites, logs and the reference say what the code does."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from django.core.management import BaseCommand
from support.manual import code_blocks, table_of, text_of

import hubspot_identify
from hubspot_identify import exceptions, flights, services, signals, testing
from hubspot_identify.doctor.findings import Finding
from hubspot_identify.management.commands import hubspot_doctor


def logged_lines() -> set[tuple[str, str, str]]:
    """Logger, level and text of all that the app logs."""
    lines = set()
    for path in Path(hubspot_identify.__file__).parent.glob("*.py"):
        if path.stem == "logs":
            continue  # passes on what others say
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            function, arguments = ast.unparse(node.func), node.args
            if function == "log_seldom":
                level, texts = ast.unparse(arguments[1]).removeprefix("logging."), arguments[2:3]
            elif function == "log_exception":
                level, texts = "ERROR", arguments[2:]
            elif function.startswith("logger.") and function != "logger.log":
                level, texts = function.removeprefix("logger.").upper(), arguments[:1]
            else:
                continue
            lines |= {(f"hubspot_identify.{path.stem}", level, ast.literal_eval(text)) for text in texts}
    return lines


def test_every_log_line_is_listed() -> None:
    """Each line that the app can log is in the table, under its logger and level, and nothing else is."""
    rows, lines = table_of("observability"), logged_lines()
    told = [
        [line for line in lines if line[:2] == (logger, level) and words in line[2]] for logger, level, words in rows
    ]
    assert [row for row, found in zip(rows, told, strict=True) if len(found) != 1] == []
    assert {found[0] for found in told} == lines


def test_signals_are_told_with_their_arguments() -> None:
    """The receivers to copy take what is sent."""
    source = Path(flights.__file__).read_text("utf-8")
    assert "visitor=self._visitor, account=self._config.account" in source
    names: dict[str, Any] = {"metrics": None}
    exec(code_blocks("observability")[1], names)
    assert len(signals.token_created.receivers) == len(signals.token_failed.receivers) == 1
    signals.token_created.disconnect(names["count_token"])
    signals.token_failed.disconnect(names["count_failure"])


def test_the_examples_for_test_suites_pass(tmp_path: Path) -> None:
    """The blocks to copy, put where they say, pass: with pytest and with Django's TestCase, the chat being off else."""
    off, plugin, tests, django_tests = code_blocks("testing")
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


def test_the_stand_in_has_what_is_told_of_it() -> None:
    """Each name in the list of what the stand-in can do is an attribute of it."""
    listed = text_of("testing").partition("What the stand-in can do")[2]
    names = [name for line in re.findall(r"^``.*``$", listed, re.MULTILINE) for name in re.findall(r"``(\w+)", line)]
    fake = testing.FakeHubSpot()
    assert len(names) == 10
    assert [name for name in names if not hasattr(fake, name)] == []


def test_the_keys_of_the_doctors_json() -> None:
    """The JSON for scripts has the keys that the page names."""
    (told,) = re.findall(r'\[\{("account".*?)\}\]', text_of("doctor"), re.DOTALL)
    assert json.loads(f"[{told}]") == ["account", *(field.name for field in fields(Finding))]


def test_the_doctors_options() -> None:
    """The page explains the options that the command has beside Django's."""
    told = re.findall(r"^``(--\w+)", text_of("doctor"), re.MULTILINE)
    parser = hubspot_doctor.Command().create_parser("manage.py", "hubspot_doctor")
    django = BaseCommand().create_parser("manage.py", "another")
    assert set(told) == {*parser._option_string_actions} - {*django._option_string_actions}


def test_the_reference_has_every_public_function_and_error() -> None:
    """No function of the services is left out, and the exceptions are documented as a whole."""
    (listed,) = re.findall(
        r"automodule:: hubspot_identify\.services\n +:members: ((?:.+\n +)*.+)", text_of("reference")
    )
    functions = {
        name
        for name, value in vars(services).items()
        if inspect.isfunction(value) and value.__module__ == services.__name__ and not name.startswith("_")
    }
    assert set(re.split(r",\s+", listed)) == functions | {"Identification"}
    assert all(value.__doc__ for value in vars(exceptions).values() if inspect.isclass(value))
