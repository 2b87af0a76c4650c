"""The manual as web pages: ``nox -s docs``, or ``sphinx-build -W docs <folder>``."""

from __future__ import annotations

import re
from pathlib import Path

import django
from django.conf import settings
from sphinx.application import Sphinx

import hubspot_identify

settings.configure(INSTALLED_APPS=["hubspot_identify"])
django.setup()  # autodoc imports the modules

project = "django-hubspot-identify"
author = copyright = "the django-hubspot-identify contributors"
release = version = hubspot_identify.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
html_theme = "furo"
html_title = "django-hubspot-identify"
html_copy_source = False


def as_seen_from_here(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Pages at the top of the repository, included here, link as the forge shows them: docs/portals.rst."""
    text = re.sub(r"`([^`<]+) <docs/(\w+)\.rst>`__", r":doc:`\1 </\2>`", content[0])
    content[0] = text.replace("docs/images/", "images/")


def setup(app: Sphinx) -> None:
    app.connect("include-read", as_seen_from_here)
