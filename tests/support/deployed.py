"""A tiny site for real servers: ``support.deployed:application`` for WSGI, ``:asgi`` for ASGI, and a ``manage.py``.

Who the visitor is stands in the header ``X-User``; the settings come as JSON from the environment.
"""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware

from hubspot_identify import client, store


@sync_and_async_middleware
def user_of_header(get_response):  # type: ignore[no-untyped-def]  # takes and returns one kind or the other
    """The session of whoever the header names."""
    from asgiref.sync import iscoroutinefunction

    def know(request: HttpRequest) -> None:
        email = request.headers.get("X-User")
        request.session = {}  # type: ignore[assignment]
        request.user = SimpleNamespace(pk=1, is_authenticated=bool(email), email=email)  # type: ignore[assignment]

    if iscoroutinefunction(get_response):

        async def middleware(request: HttpRequest) -> HttpResponse:
            know(request)
            return await get_response(request)

    else:

        def middleware(request: HttpRequest) -> HttpResponse:
            know(request)
            return get_response(request)

    return middleware


def pid(request: HttpRequest) -> HttpResponse:  # pragma: no cover - runserver's processes are killed before they tell
    """Which process answers."""
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("pid/", pid), path("hubspot/", include("hubspot_identify.urls"))]

settings.configure(
    SECRET_KEY="only-for-tests",
    ALLOWED_HOSTS=["*"],
    DEBUG=True,
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles", "hubspot_identify"],
    MIDDLEWARE=[f"{__name__}.user_of_header"],
    STATIC_URL="/static/",
    **json.loads(os.environ["DEPLOYED_SETTINGS"]),
)
django.setup()

# On a busy machine a healthy cache may take its second, and a healthy HubSpot its two.
client.READ_TIMEOUT = store.SLOW = 30.0
application = get_wsgi_application()
asgi = get_asgi_application()

if os.environ.get("DEPLOYED_WARM"):
    # What a site might do where gunicorn loads it before it forks: the session is open in the master then.
    from hubspot_identify import services
    from hubspot_identify.visitors import Visitor

    services.create_token(Visitor("master@example.com"))

if __name__ == "__main__":  # pragma: no cover - the same
    execute_from_command_line(sys.argv)
