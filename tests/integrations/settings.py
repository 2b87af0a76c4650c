"""A site with all packages that the app supports. The tests add the middleware that they need."""

from __future__ import annotations

from typing import Any

from settings import *  # noqa: F403
from settings import INSTALLED_APPS, MIDDLEWARE

ROOT_URLCONF = "integrations.urls"
INSTALLED_APPS = [
    *INSTALLED_APPS,
    "django.contrib.admin",
    "django.contrib.messages",
    "allauth",
    "allauth.account",
    "django_su",
    "hijack",
    "impersonate",
    "loginas",
]
MIDDLEWARE = [
    *MIDDLEWARE,
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
]
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend", "django_su.backends.SuBackend"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "/"
_TEMPLATES: Any = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
TEMPLATES = _TEMPLATES
# Addresses are verified by mail. Until then, several accounts may claim one.
ACCOUNT_SIGNUP_FIELDS = ["username*", "email*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "optional"
ACCOUNT_PREVENT_ENUMERATION = "strict"
ACCOUNT_RATE_LIMITS = False
SILENCED_SYSTEM_CHECKS = ["admin.E410", "admin.E409"]
