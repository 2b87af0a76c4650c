"""Settings of the example site.

The part that matters is ``HUBSPOT_IDENTIFY``. With ``HUBSPOT_API_KEY`` and ``HUBSPOT_PORTAL_ID`` in the environment, or
in a file ``.env`` beside ``manage.py``, the site uses that HubSpot account; without them, it uses the sandbox.
"""

from __future__ import annotations

from pathlib import Path

import django
import environ

from hubspot_identify import csp

from .sandbox import sandbox_settings

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")

DEBUG = env.bool("DEBUG", default=True)
SECRET_KEY = env.str("SECRET_KEY", default="not-a-secret: this site runs on your own machine only")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])

HUBSPOT_API_KEY = env.str("HUBSPOT_API_KEY", default="")
HUBSPOT_PORTAL_ID = env.str("HUBSPOT_PORTAL_ID", default="")
HUBSPOT_REGION = env.str("HUBSPOT_REGION", default="na1")
USES_SANDBOX = not (HUBSPOT_API_KEY and HUBSPOT_PORTAL_ID)

HUBSPOT_IDENTIFY = {
    "API_KEY": HUBSPOT_API_KEY,
    "PORTAL_ID": HUBSPOT_PORTAL_ID,
    "REGION": HUBSPOT_REGION,
    "ENABLED": env.bool("HUBSPOT_ENABLED", default=True),
    "EMAIL_VERIFIED": True,  # the command "demo" creates all users, and there is no sign-up
    # Used by the pages that show another delivery or loading mode: {% hubspot_identify account="idle" %}
    "ACCOUNTS": {
        "inline": {"DELIVERY": "inline"},
        "idle": {"LOAD_ON": "idle"},
        "interaction": {"LOAD_ON": "interaction"},
    },
}
if USES_SANDBOX:
    HUBSPOT_IDENTIFY |= sandbox_settings("http://127.0.0.1:8000")

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "hubspot_identify",
    "hubspot_identify.sandbox",
    "example_site",
]

MIDDLEWARE = [
    "hubspot_identify.middleware.IdentifiedPageMiddleware",  # first and last, for inline delivery
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "hubspot_identify.middleware.IdentifiedPageMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "example_site.context_processors.scenarios",
            ],
        },
    }
]

ROOT_URLCONF = "example_site.urls"
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    }
}
USE_TZ = True

STATIC_URL = "static/"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "home"

policy = {
    "default-src": ["'self'"],
    # Without these two directives, injected markup could send the content of a page to another site.
    "base-uri": ["'none'"],
    "form-action": ["'self'"],
    **{directive: ["'self'", *hosts] for directive, hosts in csp.sources(HUBSPOT_REGION).items()},
}
if django.VERSION >= (6, 0):  # older versions cannot send a policy
    MIDDLEWARE.insert(1, "django.middleware.csp.ContentSecurityPolicyMiddleware")
    SECURE_CSP = policy

# HubSpot's chat uses the referrer to determine the page.
SECURE_REFERRER_POLICY = "strict-origin-when-cross-origin"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{", "datefmt": "%H:%M:%S"}},
    "filters": {
        # The errors of the sandbox are simulated, so they do not belong in the site's log.
        "of_this_site": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: not getattr(record, "request", None) or "/sandbox/" not in record.request.path,
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["of_this_site"]}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "django.server": {"level": "WARNING"},
        "hubspot_identify": {"handlers": ["console"], "level": "INFO"},
    },
}
