"""What an import costs a site that has Django loaded: the app, ``requests``, HubSpot's own client."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

from servers import child_environment

#: What Django loads of an app that is installed, tagged and routed: all of ours but what a worker does.
APP = (
    "hubspot_identify.apps",
    "hubspot_identify.middleware",
    "hubspot_identify.templatetags.hubspot_identify",
    "hubspot_identify.urls",
)
IMPORTS = {
    "hubspot_identify": APP,
    "requests": ("requests",),
    "hubspot-api-client 12": ("hubspot", "hubspot.conversations.visitor_identification"),
}

#: A site with a page, a cache, users and sessions, and then the import.
CHILD = """
import importlib, json, sys, time
from django.conf import settings
settings.configure(
    SECRET_KEY="benchmark",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions",
                    "django.contrib.staticfiles"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware"],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ROOT_URLCONF="django.contrib.auth.urls", STATIC_URL="/static/",
)
from django.core.wsgi import get_wsgi_application
get_wsgi_application()
from django.core.cache import cache
from django.core.checks import run_checks
from django.template import engines
from django.urls import get_resolver
run_checks()
cache.get("key")
engines.all()
get_resolver().url_patterns
started = time.perf_counter()
for name in sys.argv[1:]:
    importlib.import_module(name)
milliseconds = (time.perf_counter() - started) * 1000
print(json.dumps({"milliseconds": milliseconds, "requests": "requests" in sys.modules}))
"""


def measure(repeats: int) -> dict[str, Any]:
    """Medians of fresh processes, in turns; and whether the app loads ``requests``."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in IMPORTS}
    for number in range(repeats + 1):
        for name, modules in IMPORTS.items():
            child = subprocess.run(
                [sys.executable, "-c", CHILD, *modules], env=child_environment(), check=True, capture_output=True
            )
            if number:  # the first one may compile
                seen[name].append(json.loads(child.stdout))
    return {
        "milliseconds": {name: statistics.median(one["milliseconds"] for one in many) for name, many in seen.items()},
        "app_loads_requests": any(one["requests"] for one in seen["hubspot_identify"]),
    }
