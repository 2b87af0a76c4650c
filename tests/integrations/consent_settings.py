"""A site with django-cookie-consent, as its manual sets it up."""

from __future__ import annotations

from settings import *  # noqa: F403
from settings import INSTALLED_APPS

ROOT_URLCONF = "integrations.consent_cases"
INSTALLED_APPS = [*INSTALLED_APPS, "cookie_consent"]
