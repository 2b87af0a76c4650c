"""``manage.py hubspot_doctor``: says what is wrong with the set-up, and what to do."""

from __future__ import annotations

import json
import sys
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, override, pgettext

from ...checks.settings import TAG, account_names
from ...doctor import DEFAULT_EMAIL, examine
from ...doctor.findings import ERROR, NOTE, OK, WARNING, Finding
from ...doctor.site import check_checks
from ...exceptions import InvalidVisitorError
from ...visitors import Visitor

WIDTH = 78  # columns
#: Checks that find all mistakes in the settings, of which the settings themselves tell the first.
SETTINGS_CHECKS = frozenset({f"{TAG}.E001", f"{TAG}.E002"})


class Command(BaseCommand):
    """Exits with 0 where a token was made and nothing is wrong, and with 1 where something is."""

    help = "Examine the HubSpot set-up and have one real identification token made. Shows neither key nor token."
    _in_progress = False
    requires_system_checks: list[str] = []  # noqa: RUF012 - as Django has it; the doctor runs our checks by itself

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Django's hook."""
        parser.add_argument(
            "--email",
            default=DEFAULT_EMAIL,
            help=f"make the token for this address, and say whether its user is identified (default: {DEFAULT_EMAIL})",
        )
        parser.add_argument("--account", help="a name from ACCOUNTS (default: all of them)")
        parser.add_argument("--host", default="", help="request the endpoint at this host (default: ALLOWED_HOSTS[0])")
        parser.add_argument("--json", action="store_true", help="for scripts: findings as JSON, in English")

    def handle(self, *, email: str, account: str | None, host: str, json: bool, **options: Any) -> None:
        """Django's hook."""
        try:
            visitor = Visitor(email)
        except InvalidVisitorError as error:
            raise CommandError(str(error)) from None
        names = account_names(getattr(settings, "HUBSPOT_IDENTIFY", None)) if account is None else [account]
        if json:
            with override("en"):
                failed = self._print_json(self._findings(visitor, names, host))
        else:
            failed = self._print_text(self._findings(visitor, names, host))
        if failed:
            sys.exit(1)

    def _findings(self, visitor: Visitor, names: list[str], host: str) -> Iterator[tuple[str, Finding]]:
        settings_told = False
        for finding in check_checks():
            settings_told = settings_told or finding.topic in SETTINGS_CHECKS
            yield "", finding
        for name in names:
            for finding in examine(name, visitor, self._show_progress, host):
                self._clear_progress()
                if not (settings_told and finding.topic == "settings" and finding.level == ERROR):
                    yield name, finding

    def _print_json(self, found: Iterator[tuple[str, Finding]]) -> bool:
        findings = [{"account": name, **asdict(finding)} for name, finding in found]
        failed = any(finding["level"] == ERROR for finding in findings)
        self.stdout.write(json.dumps({"ok": not failed, "findings": findings}, indent=2))
        return failed

    def _print_text(self, findings: Iterator[tuple[str, Finding]]) -> bool:
        topics, levels = set(), []
        shown = ""
        for name, finding in findings:
            if name != shown:
                self.stdout.write("\n" + pgettext("hubspot_doctor", "Account {name}").format(name=printable(name)))
                shown = name
            self._print(finding)
            topics.add(finding.topic)
            levels.append(finding.level)
        errors, warnings = levels.count(ERROR), levels.count(WARNING)
        self.stdout.write("")
        if errors:
            text = ngettext("{count} error: mend it first.", "{count} errors: mend them first.", errors)
            self.stdout.write(self.style.ERROR(text.format(count=errors)))
        elif warnings:
            text = ngettext("It works, with {count} warning.", "It works, with {count} warnings.", warnings)
            self.stdout.write(self.style.WARNING(text.format(count=warnings)))
        elif "token" not in topics:
            self.stdout.write(_("No token was made, since the chat is switched off."))
        else:
            self.stdout.write(self.style.SUCCESS(pgettext("hubspot_doctor", "All is well.")))
        return bool(errors)

    def _print(self, finding: Finding) -> None:
        style, word = {
            OK: (self.style.SUCCESS, pgettext("hubspot_doctor", "ok")),
            NOTE: (self.style.HTTP_NOT_MODIFIED, pgettext("hubspot_doctor", "note")),
            WARNING: (self.style.WARNING, pgettext("hubspot_doctor", "warning")),
            ERROR: (self.style.ERROR, pgettext("hubspot_doctor", "error")),
        }[finding.level]
        text = finding.text
        if finding.seconds is not None:
            text += f" ({finding.seconds * 1000:.1f} ms)"
        if finding.topic.startswith(TAG):  # a system check, by whose id it may be silenced
            text += f" ({finding.topic})"
        first, *rest = _wrapped(text)
        self.stdout.write(f"{style(word.rjust(9))}  {first}")
        for line in rest:
            self.stdout.write(f"{'':11}{line}")
        for line in _wrapped(finding.hint, "-> "):
            self.stdout.write(f"{'':11}{line}")
        if finding.link:
            self.stdout.write(f"{'':14}{printable(finding.link)}")
        if finding.correlation_id and finding.correlation_id not in text:
            label = _("correlation id")  # gettext's tools don't look into f-strings
            self.stdout.write(f"{'':14}{label} {printable(finding.correlation_id)}")

    def _show_progress(self, what: str, seconds: float) -> None:
        if self.stderr.isatty():
            self.stderr.write(f"\r{'':11}{what} ... {seconds:.1f} s", str, ending="")
            self.stderr.flush()
            self._in_progress = True
        elif seconds == 0:
            self.stderr.write(f"{what} ...", str)

    def _clear_progress(self) -> None:
        if self._in_progress:
            self.stderr.write("\r\x1b[K", str, ending="")
            self.stderr.flush()
            self._in_progress = False


def _wrapped(text: str, bullet: str = "") -> list[str]:
    indent = " " * len(bullet)
    return textwrap.wrap(
        printable(text),
        WIDTH - 11,
        initial_indent=bullet,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def printable(text: str) -> str:
    """A text without anything that a terminal would obey: some of it comes from HubSpot, or whoever says so."""
    return "".join(char if char.isprintable() else "?" for char in text)
