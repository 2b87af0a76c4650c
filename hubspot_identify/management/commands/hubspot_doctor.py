"""``manage.py hubspot_doctor``: finds problems in the setup, and says how to fix them."""

from __future__ import annotations

import json
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ...checks.accounts import account_names
from ...checks.settings import TAG
from ...doctor import DEFAULT_EMAIL, examine
from ...doctor.findings import ERROR, NOTE, OK, VERDICT, WARNING, Finding
from ...doctor.site import run_system_checks
from ...doctor.users import user_with_name
from ...exceptions import InvalidVisitorError
from ...visitors import Visitor

WIDTH = 78  # columns
INDENT = 11  # columns for the level of a finding
#: System checks that report every configuration error. An account raises only the first.
SETTINGS_CHECKS = frozenset({f"{TAG}.E001", f"{TAG}.E002"})


class Command(BaseCommand):
    """Print the findings of the doctor. The exit code is 1 if one of them is an error, and 0 otherwise."""

    help = "Check the HubSpot setup, and request one real identification token. Shows neither the key nor the token."
    requires_system_checks: list[str] = []  # noqa: RUF012 - declared like this by Django; the doctor runs the checks
    _shows_progress = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the options of the command."""
        visitor = parser.add_mutually_exclusive_group()
        visitor.add_argument(
            "--email",
            default=DEFAULT_EMAIL,
            help=f"request the token for this address, and check its users (default: {DEFAULT_EMAIL})",
        )
        visitor.add_argument("--user", help="check the user with this user name or primary key")
        parser.add_argument("--account", help="check only this account from ACCOUNTS (default: all accounts)")
        parser.add_argument("--host", default="", help="request the endpoint at this host (default: ALLOWED_HOSTS[0])")
        parser.add_argument("--json", action="store_true", help="print the findings as JSON, for scripts")

    def handle(
        self, *, email: str, user: str | None, account: str | None, host: str, json: bool, **options: Any
    ) -> None:
        """Check all accounts, or the given one."""
        try:
            visitor = Visitor(email)
            found = None if user is None else user_with_name(user)
        except (InvalidVisitorError, LookupError) as error:
            raise CommandError(str(error)) from None
        if user is not None and found is None:
            raise CommandError("No user has the user name or primary key in --user.")
        names = account_names(getattr(settings, "HUBSPOT_IDENTIFY", None)) if account is None else [account]
        findings = self._findings(visitor, names, host, found)
        failed = self._print_json(findings) if json else self._print_text(findings)
        if failed:
            sys.exit(1)

    def _findings(self, visitor: Visitor, names: list[str], host: str, user: Any) -> Iterator[tuple[str, Finding]]:
        settings_reported = False
        for finding in run_system_checks():
            settings_reported = settings_reported or finding.topic in SETTINGS_CHECKS
            yield "", finding
        for name in names:
            for finding in examine(name, visitor, self._show_progress, host, user):
                self._clear_progress()
                if not (settings_reported and finding.topic == "settings" and finding.level == ERROR):
                    yield name, finding

    def _print_json(self, findings: Iterator[tuple[str, Finding]]) -> bool:
        rows = [{"account": name, **asdict(finding)} for name, finding in findings]
        failed = any(row["level"] == ERROR for row in rows)
        self.stdout.write(json.dumps({"ok": not failed, "findings": rows}, indent=2))
        return failed

    def _print_text(self, findings: Iterator[tuple[str, Finding]]) -> bool:
        levels: list[str] = []
        verdicts: list[tuple[str, Finding]] = []
        current = ""
        for name, finding in findings:
            if finding.topic == VERDICT:
                verdicts.append((name, finding))
                continue
            if name != current:
                self.stdout.write(f"\nAccount {printable(name)}")
                current = name
            self._print(finding)
            levels.append(finding.level)
        errors, warnings = levels.count(ERROR), levels.count(WARNING)
        self.stdout.write("")
        if errors:
            self.stdout.write(self.style.ERROR(f"{_count(errors, 'error')} found."))
        elif warnings:
            self.stdout.write(self.style.WARNING(f"No errors, {_count(warnings, 'warning')} found."))
        else:
            self.stdout.write("No errors or warnings found.")
        for name, verdict in verdicts:
            prefix = f"Account {name}: " if name else ""
            for line in _wrap(prefix + verdict.text, width=WIDTH):
                self.stdout.write(self._style(verdict.level)(line))
        return bool(errors)

    def _print(self, finding: Finding) -> None:
        text = finding.text
        if finding.seconds is not None:
            text += f" ({finding.seconds * 1000:.1f} ms)"
        if finding.topic.startswith(TAG):  # the ID of a system check, by which it can be silenced
            text += f" ({finding.topic})"
        first, *rest = _wrap(text)
        self.stdout.write(f"{self._style(finding.level)(finding.level.rjust(9))}  {first}")
        for line in (*rest, *_wrap(finding.hint, "-> ")):
            self.stdout.write(f"{'':{INDENT}}{line}")
        if finding.link:
            self.stdout.write(f"{'':{INDENT}}   {printable(finding.link)}")
        if finding.correlation_id and finding.correlation_id not in text:
            self.stdout.write(f"{'':{INDENT}}   Correlation ID: {printable(finding.correlation_id)}")

    def _style(self, level: str) -> Callable[[str], str]:
        styles: dict[str, Callable[[str], str]] = {
            OK: self.style.SUCCESS,
            NOTE: self.style.HTTP_NOT_MODIFIED,
            WARNING: self.style.WARNING,
            ERROR: self.style.ERROR,
        }
        return styles[level]

    def _show_progress(self, activity: str, seconds: float) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{'':{INDENT}}{activity} ... {seconds:.1f} s", str, ending="")
            self.stderr.flush()
            self._shows_progress = True
        elif seconds == 0:
            self.stderr.write(f"{activity} ...", str)

    def _clear_progress(self) -> None:
        if self._shows_progress:
            self.stderr.write("\r\x1b[K", str, ending="")
            self.stderr.flush()
            self._shows_progress = False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _wrap(text: str, bullet: str = "", width: int = WIDTH - INDENT) -> list[str]:
    return textwrap.wrap(
        printable(text),
        width,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """Replace the characters that a terminal interprets. HubSpot, or a server in its place, sends some of the text."""
    return "".join(char if char.isprintable() else "?" for char in text)
