"""A site with django-cookie-consent, configured as its manual describes."""

from __future__ import annotations

from settings import *  # noqa: F403
from settings import INSTALLED_APPS

ROOT_URLCONF = "integrations.consent_cases"
INSTALLED_APPS = [*INSTALLED_APPS, "cookie_consent"]
