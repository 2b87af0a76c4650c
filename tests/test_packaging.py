"""The installed package: its imports, dependencies, metadata and files."""

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


@pytest.mark.slow
def test_package_imports_no_dependencies() -> None:
    """``import hubspot_identify`` loads neither Django nor requests, so that tools can read the version."""
    loaded = modules_after("import hubspot_identify")
    assert {name.partition(".")[0] for name in loaded} & {"django", "requests", "asgiref"} == set()


@pytest.mark.slow
def test_site_starts_without_importing_requests() -> None:
    """An installed and routed app imports only itself, Django and cheap modules of the standard library."""
    before = modules_after(f"APPS = []\n{SETUP}")
    after = modules_after(f'APPS = ["hubspot_identify"]\n{SETUP}{USE}')
    added = {name.partition(".")[0] for name in after - before}
    assert added - sys.stdlib_module_names - {"django", "asgiref"} == {"hubspot_identify"}
    # These modules take milliseconds to import, and only a call needs them.
    assert (after - before) & {"http.client", "ssl", "email.parser"} == set()


def test_metadata_has_version_licence_and_two_dependencies() -> None:
    """The dependencies are Django and requests, without an upper limit."""
    needed = [line for line in requires("django-hubspot-identify") or [] if "extra ==" not in line]
    assert [re.sub(r">=[\d.]+$", "", line) for line in needed] == ["django", "requests"]
    assert version("django-hubspot-identify") == hubspot_identify.__version__
    assert metadata("django-hubspot-identify")["License-Expression"] == "BSD-3-Clause"


def test_data_files_are_installed() -> None:
    """The package has the marker for types and the browser's script."""
    for name in ("py.typed", "static/hubspot_identify/identify.js"):
        assert files("hubspot_identify").joinpath(name).is_file()


def test_app_has_no_models_and_no_migrations() -> None:
    """The app does not change the database."""
    assert list(apps.get_app_config("hubspot_identify").get_models()) == []
    assert find_spec("hubspot_identify.migrations") is None
