"""The translations are complete and compiled, and the app uses them."""

from __future__ import annotations

import gettext as catalogues
import json
import subprocess
from io import StringIO
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from django.core.management import call_command
from django.utils.translation import gettext, override
from pytest_django import Settings
from support.pages import render_django, request_by, script_attributes
from support.programs import require

import hubspot_identify

PACKAGE = Path(hubspot_identify.__file__).parent
LANGUAGES = ["de", "fr", "es"]


def run(program: str, *arguments: object) -> str:
    """Run a program of GNU gettext, and return what it reports."""
    command = [require(program), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={"LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    return done.stderr


def source(language: str) -> Path:
    return PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"


def translations(compiled: Path) -> dict[Any, str]:
    """The messages of a compiled catalogue, and their translations."""
    with compiled.open("rb") as file:
        found: Any = catalogues.GNUTranslations(file)
    messages: dict[Any, str] = found._catalog
    del messages[""]  # the header
    return messages


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text)}


@pytest.mark.slow
def test_catalogues_have_the_messages_of_the_code(tmp_path: Path) -> None:
    """Each message of the code has a translation in each language, and there are no others."""
    template = tmp_path / "django.pot"
    keywords = [f"--keyword={name}" for name in ("gettext_lazy", "ngettext:1,2", "pgettext:1c,2")]
    run("xgettext", "--language=Python", "--from-code=UTF-8", *keywords, "-o", template, *PACKAGE.rglob("*.py"))
    for language in LANGUAGES:
        assert run("msgcmp", source(language), template) == ""


@pytest.mark.slow
def test_compiled_catalogues_are_up_to_date(tmp_path: Path) -> None:
    """Each ``.mo`` file is that of its ``.po`` file, which has no fuzzy or missing translations."""
    for language in LANGUAGES:
        compiled = tmp_path / f"{language}.mo"
        statistics = run("msgfmt", "--check-format", "--statistics", "-o", compiled, source(language))
        assert "fuzzy" not in statistics
        assert "untranslated" not in statistics
        assert translations(compiled) == translations(source(language).with_suffix(".mo"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_have_the_placeholders_of_their_messages(language: str) -> None:
    """A translation uses the same names in braces as the English message."""
    messages = {
        key if isinstance(key, str) else key[0]: text
        for key, text in translations(source(language).with_suffix(".mo")).items()
    }
    assert [message for message, text in messages.items() if fields(message) != fields(text)] == []


def test_labels_of_the_launcher_are_in_the_active_language(settings: Settings) -> None:
    """Pages in turns in different languages each have their own labels, although attributes are cached."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "LOAD_ON": "interaction"}

    def labels(language: str) -> dict[str, str]:
        with override(language):
            found: dict[str, str] = json.loads(script_attributes(render_django(request_by()))["data-labels"])
        return found

    english = labels("en")
    for language in (*LANGUAGES, "de"):
        with override(language):
            expected = {name: gettext(text) for name, text in english.items()}
        assert labels(language) == expected
    assert labels("en") == english


def test_doctor_reports_in_the_active_language_and_its_json_in_english(settings: Settings) -> None:
    """The JSON is for programs, so it does not depend on the language."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    reports = {}
    for language in ("en", "de"):
        text, for_programs = StringIO(), StringIO()
        with override(language):
            call_command("hubspot_doctor", stdout=text)
            call_command("hubspot_doctor", json=True, stdout=for_programs)
        reports[language] = (text.getvalue(), for_programs.getvalue())
    assert reports["de"][1] == reports["en"][1]
    findings = json.loads(reports["en"][1])["findings"]
    assert findings
    for finding in findings:
        assert finding["text"] in reports["en"][0]
        with override("de"):
            assert gettext(finding["text"]) in reports["de"][0]
