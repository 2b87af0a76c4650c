"""Requests that anyone can send in any number: they cause neither a log line nor an e-mail each.

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

REQUESTS = 200
URL = "/hubspot/identity/"
PAGE = "/page/"
OURS = {"X-HubSpot-Identify": "1"}


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


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def records(settings: Settings) -> Iterator[list[logging.LogRecord]]:
    """What any logger of the process logs from INFO on, while every ERROR is e-mailed."""
    settings.ADMINS = ["admin@example.com"] if django.VERSION >= (6, 0) else [("Admin", "admin@example.com")]
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}  # since Django 6.1
    settings.ALLOWED_HOSTS = ["testserver"]
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    seen, mailer = Records(), AdminEmailHandler()
    mailer.setLevel(logging.ERROR)
    for handler in (seen, mailer):
        logging.root.addHandler(handler)
    yield seen.records
    for handler in (seen, mailer):
        logging.root.removeHandler(handler)


Send = Callable[..., HttpResponse]


@pytest.fixture(params=["wsgi", "asgi"])
def send(request: pytest.FixtureRequest) -> Send:
    """Send a request to Django's WSGI or ASGI handler, as an anonymous visitor."""
    if request.param == "wsgi":
        client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        return lambda method, url, headers: client.generic(method, url, headers=headers)
    async_client = AsyncClient(enforce_csrf_checks=True, raise_request_exception=False)

    async def generic(method: str, url: str, headers: dict[str, str]) -> HttpResponse:
        return await async_client.generic(method, url, headers=headers)  # type: ignore[no-any-return]

    return async_to_sync(generic)


def by_header(request: HttpRequest) -> str:
    """A CHOOSE_ACCOUNT that trusts the client."""
    return request.headers["X-Tenant"]


def fails(request: HttpRequest) -> Any:
    """A callable of the site that fails with a text from the client."""
    raise LookupError(request.headers["X-Tenant"])


@dataclass
class Flood:
    status: int
    url: str = URL
    method: str = "GET"
    headers: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    records: int = 0


ENDPOINT = {
    "without our header": Flood(403, headers={"X-HubSpot-Identify": ""}),
    "from another site": Flood(403, headers={"Sec-Fetch-Site": "cross-site"}),
    **{f"method {method}": Flood(405, method=method) for method in ("POST", "DELETE", "HEAD", "TRACE")},
    "forged host": Flood(400, headers={"Host": "host{number}.example"}),
    "unknown account in the URL": Flood(200, url=f"{URL}name-{{number}}/"),
    "unknown account chosen": Flood(200, settings={"CHOOSE_ACCOUNT": by_header}, records=1),
    "wrong setting": Flood(503, settings={"API_KEY": None}, records=1),
    "CHOOSE_ACCOUNT fails": Flood(503, settings={"CHOOSE_ACCOUNT": fails}, records=1),
    "ENABLED fails": Flood(503, settings={"ENABLED": fails}, records=1),
}
PAGES = {
    "page of an unknown account": Flood(200, PAGE, settings={"CHOOSE_ACCOUNT": by_header}, records=1),
    "page where CHOOSE_ACCOUNT fails": Flood(200, PAGE, settings={"CHOOSE_ACCOUNT": fails}, records=1),
    "page where ENABLED fails": Flood(200, PAGE, settings={"ENABLED": fails}, records=1),
}


@pytest.mark.parametrize("flood", [pytest.param(flood, id=name) for name, flood in {**ENDPOINT, **PAGES}.items()])
def test_flood_of_requests_fills_neither_log_nor_mailbox(
    settings: Settings, records: list[logging.LogRecord], send: Send, flood: Flood
) -> None:
    """However many requests there are, and whatever they name: at most one record and one e-mail."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **flood.settings}
    for number in range(REQUESTS):
        values = {**OURS, "X-Tenant": "name-{number}", **flood.headers}
        headers = {name: value.format(number=number) for name, value in values.items()}
        assert send(flood.method, flood.url.format(number=number), headers).status_code == flood.status
    assert [(record.name.partition(".")[0], record.levelno) for record in records] == [
        ("hubspot_identify", logging.ERROR)
    ] * flood.records
    assert len(mail.outbox) == flood.records


@pytest.mark.parametrize("flood", [Flood(0, URL), Flood(0, PAGE)], ids=["endpoint", "page"])
@pytest.mark.parametrize("setting", ["CHOOSE_ACCOUNT", "ENABLED"])
def test_callable_that_fails_is_raised_under_debug(settings: Settings, setting: str, flood: Flood) -> None:
    """The developer sees the site's own exception at once."""
    settings.DEBUG = True
    settings.ROOT_URLCONF = __name__
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, setting: fails}
    with pytest.raises(LookupError, match="of the test"):
        Client().get(flood.url, headers={**OURS, "X-Tenant": "of the test"})


def test_callable_that_fails_is_logged_with_its_traceback(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """In production the log shows where the exception comes from."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": fails}
    Client().get(URL, headers={**OURS, "X-Tenant": "name"})
    (record,) = [record for record in caplog.records if record.name.startswith("hubspot_identify")]
    assert record.exc_info
    assert isinstance(record.exc_info[1], LookupError)


@pytest.mark.parametrize(("url", "logged"), [("/failure/", True), ("/quiet-failure/", False)])
def test_django_does_not_log_a_response_that_is_kept_out_of_its_logs(
    records: list[logging.LogRecord], send: Send, url: str, logged: bool
) -> None:
    """This version of Django has the mark that the app sets on responses."""
    assert send("GET", url, {}).status_code == 503
    assert bool(records) is logged
    assert bool(mail.outbox) is logged
