"""The translations are complete and compiled, and the app uses them."""

from __future__ import annotations

import gettext as catalogues
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from django.utils.translation import gettext, override
from pytest_django import Settings
from support.pages import render_django, request_by, script_attributes
from support.programs import require

import hubspot_identify

PACKAGE = Path(hubspot_identify.__file__).parent
LANGUAGES = ["de", "fr", "es"]


def run(program: str, *arguments: object) -> str:
    """Run a program of GNU gettext, and return its messages."""
    command = [require(program), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={"LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
    return done.stderr


def source(language: str) -> Path:
    return PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"


def translations(compiled: Path) -> dict[str, str]:
    """Return the messages of a compiled catalogue, and their translations."""
    with compiled.open("rb") as file:
        catalogue: Any = catalogues.GNUTranslations(file)
    messages: dict[str, str] = catalogue._catalog
    del messages[""]  # the header
    return messages


@pytest.mark.slow
def test_catalogues_have_the_messages_of_the_code(tmp_path: Path) -> None:
    """Each message of the code has a translation in each language, and there are no others."""
    template = tmp_path / "django.pot"
    options = ["--language=Python", "--from-code=UTF-8", "--keyword=gettext_lazy", "-o", template]
    run("xgettext", *options, *PACKAGE.rglob("*.py"))
    for language in LANGUAGES:
        assert run("msgcmp", source(language), template) == ""


@pytest.mark.slow
def test_compiled_catalogues_are_up_to_date(tmp_path: Path) -> None:
    """Each ``.mo`` file is compiled from its ``.po`` file, which has no fuzzy or missing translations."""
    for language in LANGUAGES:
        compiled = tmp_path / f"{language}.mo"
        statistics = run("msgfmt", "--check-format", "--statistics", "-o", compiled, source(language))
        assert "fuzzy" not in statistics
        assert "untranslated" not in statistics
        assert translations(compiled) == translations(source(language).with_suffix(".mo"))


def test_labels_of_the_launcher_are_in_the_active_language(settings: Settings) -> None:
    """Each page has labels in its own language, also if the page before was in another language."""
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
        assert labels(language) != english
    assert labels("en") == english
