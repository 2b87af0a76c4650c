"""A small site for real servers: ``support.deployed:application`` for WSGI, ``:asgi`` for ASGI, and a ``manage.py``.

The header ``X-User`` has the address of the user. The environment has the settings as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import django
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware

from hubspot_identify._hubspot import client
from hubspot_identify._tokens import store


@sync_and_async_middleware
def user_from_header(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Middleware that sets the user that the header names."""

    def set_user(request: Any) -> None:
        email = request.headers.get("X-User")
        request.session = {}
        request.user = SimpleNamespace(pk=1, is_authenticated=bool(email), email=email)

    async def async_middleware(request: HttpRequest) -> Any:
        set_user(request)
        return await get_response(request)

    def middleware(request: HttpRequest) -> Any:
        set_user(request)
        return get_response(request)

    return async_middleware if iscoroutinefunction(get_response) else middleware


def pid(request: HttpRequest) -> HttpResponse:  # pragma: no cover - runserver is killed before it writes its data
    """The process that serves the request."""
    return HttpResponse(str(os.getpid()))


urlpatterns = [path("pid/", pid), path("hubspot/", include("hubspot_identify.urls"))]

settings.configure(
    SECRET_KEY="only-for-tests",
    ALLOWED_HOSTS=["*"],
    DEBUG=True,
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles", "hubspot_identify"],
    MIDDLEWARE=[f"{__name__}.user_from_header"],
    STATIC_URL="/static/",
    **json.loads(os.environ["DEPLOYED_SETTINGS"]),
)
django.setup()

# On a busy machine a healthy cache may take more than a second, and a healthy server more than two.
client.READ_TIMEOUT = store.SLOW = 30.0
application = get_wsgi_application()
asgi = get_asgi_application()

if os.environ.get("DEPLOYED_WARM"):
    # A call before gunicorn forks leaves an open session in the parent process.
    from hubspot_identify import services
    from hubspot_identify.visitors import Visitor

    services.create_token(Visitor("master@example.com"))

if __name__ == "__main__":  # pragma: no cover - the same reason
    execute_from_command_line(sys.argv)
