"""What a site gets when it installs the package, and what it does not get."""

from __future__ import annotations

import re
import sys
from importlib.metadata import metadata, requires, version
from importlib.resources import files
from importlib.util import find_spec

import pytest
from django.apps import apps
from support.programs import modules_after

import hubspot_identify

SETUP = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.staticfiles", *APPS], STATIC_URL="static/", TEMPLATES=[
    {"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}])
django.setup()
from django import template, urls
"""
USE = """
import hubspot_identify.services, hubspot_identify.urls
from hubspot_identify.templatetags import hubspot_identify
"""


def test_package_imports_nothing_by_itself() -> None:
    """``import hubspot_identify`` loads neither Django nor requests, so that tools may ask for the version."""
    loaded = modules_after("import hubspot_identify")
    assert {name.partition(".")[0] for name in loaded} & {"django", "requests", "asgiref"} == set()


def test_a_site_starts_without_loading_what_calls_hubspot() -> None:
    """On top of Django, an installed and routed app loads itself and the standard library, ``requests`` not."""
    before = modules_after(f"APPS = []\n{SETUP}")
    after = modules_after(f'APPS = ["hubspot_identify"]\n{SETUP}{USE}')
    added = {name.partition(".")[0] for name in after - before}
    assert added - sys.stdlib_module_names - {"django", "asgiref"} == {"hubspot_identify"}
    # The parts of the standard library that cost milliseconds, and that only a call needs.
    assert (after - before) & {"http.client", "ssl", "email.parser"} == set()


def test_two_dependencies_without_ceilings() -> None:
    """A site gets Django and requests and nothing else, and no release of theirs is shut out."""
    needed = [line for line in requires("django-hubspot-identify") or [] if "extra ==" not in line]
    assert [re.fullmatch(r"(\w+)>=[\d.]+", line)[1] for line in needed] == ["django", "requests"]


def test_metadata() -> None:
    """The installed package tells its version and its licence."""
    assert version("django-hubspot-identify") == hubspot_identify.__version__
    assert metadata("django-hubspot-identify")["License-Expression"] == "BSD-3-Clause"


@pytest.mark.parametrize("name", ["py.typed", "static/hubspot_identify/identify.js"])
def test_files_that_are_no_modules_are_installed(name: str) -> None:
    """Types and the browser's script come with the package."""
    assert files("hubspot_identify").joinpath(name).is_file()


def test_no_models_and_no_migrations() -> None:
    """Installing the app changes no database."""
    assert list(apps.get_app_config("hubspot_identify").get_models()) == []
    assert find_spec("hubspot_identify.migrations") is None
