"""Requests that anyone can send in any number: they do not cause a log line or an e-mail each.

Django logs each response with a status of 400 or more, and e-mails those with 500 or more to ``ADMINS``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync
from django.core import mail
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client
from django.urls import include, path
from django.utils.log import AdminEmailHandler
from pytest_django import Settings
from support.pages import render_django

from hubspot_identify._compat import keep_out_of_logs

pytestmark = pytest.mark.django_db

REQUESTS = 5
URL = "/hubspot/identity/"
PAGE = "/page/"
SCRIPT_HEADERS = {"X-HubSpot-Identify": "1"}


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(render_django(request))


def quiet_failure(request: HttpRequest) -> HttpResponse:
    response = HttpResponse(status=503)
    keep_out_of_logs(response)
    return response


def failure(request: HttpRequest) -> HttpResponse:
    return HttpResponse(status=503)


urlpatterns = [
    path("hubspot/", include("hubspot_identify.urls")),
    path("page/", page),
    path("failure/", failure),
    path("quiet-failure/", quiet_failure),
]


class RecordList(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records(settings: Settings) -> Iterator[list[logging.LogRecord]]:
    """The records of all loggers from INFO on. Each ERROR is e-mailed."""
    settings.ADMINS = ["admin@example.com"] if django.VERSION >= (6, 0) else [("Admin", "admin@example.com")]
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}  # since Django 6.1
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    handler, mailer = RecordList(), AdminEmailHandler()
    mailer.setLevel(logging.ERROR)
    logging.root.addHandler(handler)
    logging.root.addHandler(mailer)
    yield handler.records
    logging.root.removeHandler(handler)
    logging.root.removeHandler(mailer)


Send = Callable[[str, str, dict[str, str]], Any]


@pytest.fixture
def send(request: pytest.FixtureRequest) -> Send:
    """Send an anonymous visitor's request to Django's WSGI handler, or to the ASGI handler if parametrised so."""
    if getattr(request, "param", "wsgi") == "wsgi":
        client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        return lambda method, url, headers: client.generic(method, url, headers=headers)
    async_client = AsyncClient(enforce_csrf_checks=True, raise_request_exception=False)

    async def generic(method: str, url: str, headers: dict[str, str]) -> Any:
        return await async_client.generic(method, url, headers=headers)

    return async_to_sync(generic)


def account_in_header(request: HttpRequest) -> str:
    """A CHOOSE_ACCOUNT that returns what the client sent."""
    return request.headers["X-Tenant"]


def fails(request: HttpRequest) -> Any:
    """A callable of the site that raises an exception with a text from the client."""
    raise LookupError(request.headers["X-Tenant"])


@dataclass
class Flood:
    """Requests of one kind, and how many log records all of them together cause."""

    status: int
    url: str = URL
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    records: int = 0


FOREIGN_REQUEST = Flood(403, headers={"Sec-Fetch-Site": "cross-site"})
FLOODS = {
    "foreign request": FOREIGN_REQUEST,
    "other method": Flood(405, method="POST"),
    "forged host": Flood(400, headers={"Host": "host{number}.example"}),
    "unknown account in the URL": Flood(200, url=f"{URL}name-{{number}}/"),
    "unknown account chosen": Flood(200, settings={"CHOOSE_ACCOUNT": account_in_header}, records=1),
    "configuration error": Flood(503, settings={"API_KEY": None}, records=1),
    "failing callable": Flood(503, settings={"ENABLED": fails}, records=1),
    "page of an unknown account": Flood(200, PAGE, settings={"CHOOSE_ACCOUNT": account_in_header}, records=1),
    "page with a failing callable": Flood(200, PAGE, settings={"ENABLED": fails}, records=1),
}


@pytest.mark.parametrize(
    ("send", "flood"),
    [
        *(pytest.param("wsgi", flood, id=name) for name, flood in FLOODS.items()),
        pytest.param("asgi", FOREIGN_REQUEST, id="foreign request to the ASGI handler"),
    ],
    indirect=["send"],
)
def test_flood_of_requests_fills_neither_log_nor_mailbox(
    settings: Settings, records: list[logging.LogRecord], send: Send, flood: Flood
) -> None:
    """However many requests there are, and whatever they name, there is at most one log record and one e-mail."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **flood.settings}
    for number in range(REQUESTS):
        values = {**SCRIPT_HEADERS, "X-Tenant": "name-{number}", **flood.headers}
        headers = {name: value.format(number=number) for name, value in values.items()}
        assert send(flood.method, flood.url.format(number=number), headers).status_code == flood.status
    assert [(record.name.partition(".")[0], record.levelno) for record in records] == [
        ("hubspot_identify", logging.ERROR)
    ] * flood.records
    assert len(mail.outbox) == flood.records


@pytest.mark.parametrize(("setting", "url"), [("ENABLED", URL), ("CHOOSE_ACCOUNT", PAGE)])
def test_exception_of_the_sites_callable_is_raised_with_debug(settings: Settings, setting: str, url: str) -> None:
    """The developer sees it at once."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = __name__
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, setting: fails}
    with pytest.raises(LookupError, match="of the test"):
        Client().get(url, headers={**SCRIPT_HEADERS, "X-Tenant": "of the test"})


@pytest.mark.parametrize("send", ["wsgi", "asgi"], indirect=True)
def test_django_does_not_log_a_response_that_is_kept_out_of_its_logs(
    records: list[logging.LogRecord], send: Send
) -> None:
    """This version of Django supports the mark that the app sets on responses."""
    assert send("GET", "/quiet-failure/", {}).status_code == 503
    assert (records, mail.outbox) == ([], [])
    assert send("GET", "/failure/", {}).status_code == 503
    assert len(records) == 1
    assert mail.outbox
