"""Callables of the site that fail: in production, they break no page, and the visitor is not identified."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.utils.functional import SimpleLazyObject
from django.views.decorators.cache import cache_page
from pytest_django import Settings
from support.app_settings import configure
from support.pages import ada, keep_token, render_django, request_by

from hubspot_identify import services
from hubspot_identify.exceptions import ConfigurationError, InvalidVisitorError
from hubspot_identify.middleware import IdentifiedPageMiddleware
from hubspot_identify.services import Identification

ANONYMOUS = {"subject": None, "identity": None}
SECRET = "ada@example.com"
OF_THE_PAGE = ("ENABLED", "CHOOSE_ACCOUNT")
OF_THE_VISITOR = ("IMPERSONATED", "VISITOR", "EMAIL_VERIFIED")
ALL = (*OF_THE_PAGE, *OF_THE_VISITOR)

every_setting = pytest.mark.parametrize("setting", ALL)


def fails(*arguments: object) -> Any:
    """Raise an exception with personal data in its text."""
    raise LookupError(SECRET)


class Awaitable:
    """An awaitable that is not a coroutine."""

    __await__ = iter


class NeitherTrueNorFalse:
    def __bool__(self) -> bool:
        return bool(fails())


@pytest.fixture(autouse=True)
def known_visitor() -> None:
    """The visitor has a token in the cache."""
    keep_token(ada())


def page(request: HttpRequest) -> str:
    """Render a page with inline delivery."""
    return render_django(request)


def identify(request: HttpRequest) -> Identification:
    return services.identify(request)


def aidentify(request: HttpRequest) -> Identification:
    return async_to_sync(services.aidentify)(request)


def get(client: Client) -> Any:
    return client.get("/hubspot/identity/", headers={"X-HubSpot-Identify": "1"})


@pytest.mark.parametrize("delivery", ["deferred", "inline"])
@pytest.mark.parametrize("setting", OF_THE_PAGE)
def test_page_has_no_chat(settings: Settings, setting: str, delivery: str) -> None:
    """Without the result, it is unknown whether the visitor may have a chat, or which portal it belongs to."""
    configure(settings, **{setting: fails}, DELIVERY=delivery)
    assert page(request_by(ada())) == ""


@pytest.mark.parametrize("setting", OF_THE_PAGE)
def test_page_without_a_chat_is_not_cached(settings: Settings, setting: str) -> None:
    """One visitor, whose cookie makes the callable fail, does not remove the chat from the pages of the others."""

    def fails_for_a_cookie(request: HttpRequest) -> Any:
        return fails() if "broken" in request.COOKIES else {"ENABLED": True}.get(setting)

    configure(settings, **{setting: fails_for_a_cookie})
    view: Any = IdentifiedPageMiddleware(cache_page(60)(lambda request: HttpResponse(render_django(request))))
    broken, other = request_by(ada()), request_by(ada())
    broken.COOKIES["broken"] = "1"
    responses = [view(request) for request in (broken, other)]
    assert responses[0].content == b""
    assert responses[0].headers["Cache-Control"] == "private, no-cache"
    assert b"<script" in responses[1].content


@pytest.mark.parametrize("setting", OF_THE_VISITOR)
def test_inline_page_is_that_of_an_anonymous_visitor(settings: Settings, setting: str) -> None:
    """The page has the chat, but no subject and no token."""
    configure(settings, DELIVERY="inline")
    anonymous = page(request_by(AnonymousUser()))
    assert page(request_by(ada())) != anonymous
    configure(settings, **{setting: fails})
    assert page(request_by(ada())) == anonymous


@every_setting
@pytest.mark.django_db
def test_endpoint_identifies_no_visitor(settings: Settings, client: Client, setting: str) -> None:
    """The status tells the script in the page to keep the conversation and to repeat the request."""
    user = ada()
    user.save()
    client.force_login(user)
    assert get(client).json()["identity"]["token"] == "token-of-ada"
    configure(settings, **{setting: fails})
    response = get(client)
    assert (response.status_code, response.json()) == (503, ANONYMOUS)
    assert response.headers["Cache-Control"] == "private, no-store"


@every_setting
@pytest.mark.parametrize("function", [identify, aidentify])
def test_services_identify_no_visitor(
    settings: Settings, setting: str, function: Callable[[HttpRequest], Identification]
) -> None:
    """The functions do not raise, so views need not handle the exception. They disable the chat as the tag does."""
    assert function(request_by(ada())).identity is not None
    configure(settings, **{setting: fails})
    assert function(request_by(ada())) == Identification(None, None, enabled=setting not in OF_THE_PAGE, failed=True)


@every_setting
def test_failures_of_each_setting_are_logged_once_a_minute(
    settings: Settings, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The record names the setting, the exception and its location, and contains no personal data."""
    configure(settings, DELIVERY="inline")
    inline = settings.HUBSPOT_IDENTIFY
    configure(settings, **{setting: fails})
    for _ in range(3):
        page(request_by(ada()))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    for expected in (f"HUBSPOT_IDENTIFY['{setting}']", "LookupError", __file__, "in fails"):
        assert expected in record.getMessage()
    assert record.exc_info is None
    assert SECRET not in caplog.text
    other = ALL[ALL.index(setting) - 1]
    settings.HUBSPOT_IDENTIFY = {**inline, other: fails}
    page(request_by(ada()))
    assert f"HUBSPOT_IDENTIFY['{other}']" in caplog.records[-1].getMessage()


def test_failure_of_other_code_of_the_site_is_logged_without_its_text(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """An example is a user whom the site's code loads. The record has the type and the location of the exception."""
    configure(settings, DELIVERY="inline")
    assert page(request_by(SimpleLazyObject(fails))) == ""
    (record,) = caplog.records
    assert "LookupError" in record.getMessage()
    assert "in fails" in record.getMessage()
    assert record.exc_info is None
    assert SECRET not in caplog.text


@every_setting
def test_exceptions_are_raised_with_debug(settings: Settings, setting: str) -> None:
    """The developer sees where the exception was raised."""
    settings.DEBUG = True
    configure(settings, **{setting: fails}, DELIVERY="inline")
    for call in (page, identify, aidentify):
        with pytest.raises(LookupError, match=SECRET):
            call(request_by(ada()))


@pytest.mark.parametrize(
    ("setting", "result"),
    [
        ("ENABLED", lambda: asyncio.sleep(0, False)),
        ("IMPERSONATED", lambda: asyncio.sleep(0, False)),
        ("EMAIL_VERIFIED", lambda: asyncio.sleep(0, False)),
        ("EMAIL_VERIFIED", Awaitable),
        ("VISITOR", lambda: asyncio.sleep(0, None)),
        ("VISITOR", lambda: SECRET),
        ("CHOOSE_ACCOUNT", lambda: asyncio.sleep(0, None)),
        ("CHOOSE_ACCOUNT", lambda: 5),
    ],
)
def test_wrong_result_is_a_failure(
    settings: Settings, setting: str, result: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    """The message names the setting and says what to return. An awaitable does not count as true."""
    configure(settings, **{setting: lambda *arguments: result()})
    assert identify(request_by(ada())).subject is None
    (record,) = caplog.records
    assert f"HUBSPOT_IDENTIFY['{setting}']" in record.getMessage()
    assert SECRET not in caplog.text
    settings.DEBUG = True
    with pytest.raises(ConfigurationError) as caught:
        identify(request_by(ada()))
    assert caught.value.setting == setting
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("setting", ["ENABLED", "IMPERSONATED", "EMAIL_VERIFIED"])
def test_result_without_a_truth_value_is_a_failure(settings: Settings, setting: str) -> None:
    """The ``__bool__()`` of the result raises an exception."""
    configure(settings, **{setting: lambda *arguments: NeitherTrueNorFalse()})
    assert identify(request_by(ada())).subject is None


def test_only_visitor_may_raise_the_error_for_unusable_addresses(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """In ``VISITOR`` it means that the visitor is anonymous. In ``EMAIL_VERIFIED`` it is a failure like any other."""

    def refuses(*arguments: object) -> Any:
        raise InvalidVisitorError("no address")

    without = settings.HUBSPOT_IDENTIFY
    for setting in ("VISITOR", "EMAIL_VERIFIED"):
        settings.HUBSPOT_IDENTIFY = {**without, setting: refuses}
        with caplog.at_level(logging.INFO):
            assert identify(request_by(ada())).subject is None
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.ERROR]
