"""German, French and Spanish: complete, compiled, and with the same placeholders."""

from __future__ import annotations

import ast
import gettext
import json
import subprocess
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from string import Formatter

import pytest
from django.core.management import call_command
from django.test import RequestFactory
from django.utils.translation import override
from pytest_django import Settings
from support.programs import require

import hubspot_identify
from hubspot_identify.widget import render_script

PACKAGE = Path(hubspot_identify.__file__).parent
LANGUAGES = ["de", "fr", "es"]
#: How many of the first arguments are text.
CALLS = {"gettext": 1, "_": 1, "ngettext": 2, "pgettext": 2}


def words() -> Iterator[tuple[str, ...]]:
    """All that the code has translated, as the arguments of the calls."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
                arguments = [ast.literal_eval(argument) for argument in node.args[: CALLS[node.func.id]]]
                yield (node.func.id, *arguments)


WORDS = sorted(set(words()))


def catalogue(language: str) -> gettext.GNUTranslations:
    with (PACKAGE / "locale" / language / "LC_MESSAGES" / "django.mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in Formatter().parse(text)}


def test_the_words_are_found() -> None:
    """The search above finds the words of the button, the doctor and the app's name."""
    assert {
        ("gettext", "Chat with us"),
        ("_", "HubSpot visitor identification"),
        ("pgettext", "hubspot_doctor", "error"),
        ("ngettext", "It works, with {count} warning.", "It works, with {count} warnings."),
    } <= set(WORDS)


def pairs(found: gettext.GNUTranslations, call: tuple[str, ...]) -> list[tuple[str, str]]:
    """Each text of a call, and what stands for it in the catalogue; nothing, where nothing does."""
    match call:
        case ("ngettext", one, many):
            return [(one, found.ngettext(one, "", 1)), (many, found.ngettext(one, "", 2))]
        case ("pgettext", context, text):
            return [(text, found._catalog.get(f"{context}\x04{text}", ""))]  # type: ignore[attr-defined]
    return [(call[1], found._catalog.get(call[1], ""))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_is_translated(language: str) -> None:
    """Each text has a translation, with the same placeholders."""
    found = catalogue(language)
    translated = [pair for call in WORDS for pair in pairs(found, call)]
    assert [text for text, translation in translated if not translation] == []
    assert [text for text, translation in translated if fields(text) != fields(translation)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_translated_in_vain(language: str) -> None:
    """Texts that have gone from the code have gone from the translations."""
    known = {text for _, *texts in WORDS for text in (*texts, "\x04".join(texts))} | {""}
    found = catalogue(language)._catalog  # type: ignore[attr-defined]
    assert {key if isinstance(key, str) else key[0] for key in found} <= known


@pytest.mark.parametrize("language", LANGUAGES)
def test_compiled_files_are_up_to_date(language: str, tmp_path: Path) -> None:
    """The .mo file says what the .po file says, and that has neither fuzzy nor empty translations."""
    source = PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po"
    compiled = tmp_path / "django.mo"
    run = subprocess.run(
        [require("msgfmt"), "--check-format", "--statistics", "-o", str(compiled), str(source)],
        check=True,
        capture_output=True,
        text=True,
        env={"LC_ALL": "C"},
    )
    assert run.stderr.endswith(" translated messages.\n")
    assert run.stderr.count(",") == 0
    with compiled.open("rb") as file:
        assert gettext.GNUTranslations(file)._catalog == catalogue(language)._catalog  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("language", "label"),
    [
        ("de", "Chatten Sie mit uns"),
        ("fr", "Discutez avec nous"),
        ("es", "Chatee con nosotros"),
        ("en", "Chat with us"),
    ],
)
def test_the_button_speaks_the_language_of_the_page(settings: Settings, language: str, label: str) -> None:
    """The labels of the chat's button come in the language that is active for the request."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "LOAD_ON": "interaction"}
    with override(language):
        html = render_script(RequestFactory().get("/"))
    (_, rest) = html.split(' data-labels="')
    labels = json.loads(rest.partition('"')[0].replace("&quot;", '"').replace("&#x27;", "'"))
    assert labels["open"] == label


def test_the_doctor_speaks_too(settings: Settings) -> None:
    """The doctor's text is in the active language; its JSON is for scripts, and in English."""
    settings.HUBSPOT_IDENTIFY = {"ENABLED": False}
    text, scripted = StringIO(), StringIO()
    with override("de"):
        call_command("hubspot_doctor", stdout=text)
        call_command("hubspot_doctor", json=True, stdout=scripted)
    assert text.getvalue().splitlines() == [
        "       ok  Die Systemprüfungen haben nichts zu beanstanden.",
        "  Hinweis  ENABLED ist False: Es gibt keinen Chat und nichts zu untersuchen.",
        "",
        "Es wurde kein Token erzeugt, denn der Chat ist ausgeschaltet.",
    ]
    assert json.loads(scripted.getvalue())["findings"][0]["text"] == "The system checks have nothing to say."
