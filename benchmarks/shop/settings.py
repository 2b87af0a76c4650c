"""A site with one page, identified in the way that ``BENCHMARK_WAY`` names. What differs comes from the environment."""

from __future__ import annotations

import json
import os

WAY = os.environ.get("BENCHMARK_WAY", "no_tag")
HUBSPOT = os.environ.get("BENCHMARK_HUBSPOT", "http://127.0.0.1:9")
TOKEN_PATH = "/conversations/v3/visitor-identification/tokens/create"
API_KEY = "pat-na1-benchmark"

SECRET_KEY = "benchmark"
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "hubspot_identify", "shop"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "shop.views.VisitorMiddleware",
]
ROOT_URLCONF = "shop.urls"
STATIC_URL = "/static/"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]
USE_TZ = True
CACHES = json.loads(
    os.environ.get("BENCHMARK_CACHES", '{"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}')
)
DATABASES = json.loads(os.environ.get("BENCHMARK_DATABASES", "{}"))

HUBSPOT_IDENTIFY = {
    "API_KEY": API_KEY,
    "PORTAL_ID": "1234567",
    "EMAIL_VERIFIED": True,
    "BASE_URL": HUBSPOT,
    "DELIVERY": "deferred" if WAY == "deferred" else "inline",
    "RATE_LIMIT": int(os.environ.get("BENCHMARK_RATE_LIMIT", "10")),
    "PAGE_WAIT": 1.0 if WAY == "inline_wait" else 0,
}
