"""The public names as a typed site uses them. This file is checked by mypy and never run.

Lines that mypy must reject have a ``type: ignore``, which mypy reports as unused if it accepts them.
"""

from __future__ import annotations

from typing import Any, assert_type

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.test import Client
from django.utils.safestring import SafeString

from hubspot_identify import csp, services
from hubspot_identify._tokens.entries import VisitorToken
from hubspot_identify.exceptions import APIError, HubSpotIdentifyError, RateLimitError
from hubspot_identify.sandbox.state import Thread
from hubspot_identify.services import Identification
from hubspot_identify.signals import token_created, token_failed
from hubspot_identify.testing import FakeHubSpot, fake_hubspot, hubspot_sandbox, no_hubspot
from hubspot_identify.visitors import Visitor
from hubspot_identify.widget import render_script


def visitor_of_customer(user: User, request: HttpRequest | None) -> Visitor | None:
    """A custom ``VISITOR``."""
    if not user.is_active:
        return None
    return Visitor(user.email, first_name=user.first_name, context=(("plan", "pro"),))


def page(request: HttpRequest) -> HttpResponse:
    """A view that calls the services."""
    identification = services.identify(request, wait=0.5, account="eu")
    assert_type(identification, Identification)
    assert_type(identification.subject, str | None)
    assert_type(identification.as_dict(), dict[str, Any])
    assert_type(render_script(request, identity=identification), SafeString)
    assert_type(identification.as_response(), JsonResponse)
    return identification.as_response()


async def asynchronous_page(request: HttpRequest) -> HttpResponse:
    """An asynchronous view."""
    identity = await services.aidentify(request)
    assert_type(identity, Identification)
    return render(request, "page.html", {"identity": identity})


def tokens(visitor: Visitor) -> str:
    """Tokens for other purposes than the page."""
    assert_type(services.get_token(visitor), VisitorToken | None)
    assert_type(services.get_token(visitor, wait=1.0, account="eu"), VisitorToken | None)
    services.forget_token(visitor)
    try:
        token = services.create_token(visitor)
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
        raise
    except APIError as error:
        assert_type(error.status, int)
        raise
    except HubSpotIdentifyError:
        raise
    assert_type(token, VisitorToken)
    assert_type(token.expires_in(0.0), int)
    return token.value


async def asynchronous_tokens(visitor: Visitor) -> None:
    """The asynchronous functions."""
    assert_type(await services.acreate_token(visitor), VisitorToken)
    assert_type(await services.aget_token(visitor, wait=1.0), VisitorToken | None)
    await services.aforget_token(visitor, account="eu")


def receivers() -> None:
    """Receivers of signals."""

    def count(sender: type[Visitor], visitor: Visitor, account: str, **kwargs: object) -> None: ...

    token_created.connect(count)
    token_failed.connect(count)


def policy() -> dict[str, list[str]]:
    """Sources for a Content-Security-Policy."""
    return csp.sources("eu1")


def test_of_a_site(client: Client) -> None:
    """The test suite of a site."""
    with fake_hubspot(EMAIL_VERIFIED=True) as hubspot:
        assert_type(hubspot, FakeHubSpot)
        assert_type(hubspot.identified, list[str])
        assert_type(hubspot.identity_of(client), dict[str, Any] | None)
        hubspot.fail(RateLimitError)
        hubspot.fail(477)
        hubspot.fail(ValueError)  # type: ignore[arg-type]
    with no_hubspot(), hubspot_sandbox("http://127.0.0.1:8081", PAGE_WAIT=0) as sandbox:
        assert_type(sandbox.threads(), list[Thread])


def mistakes(visitor: Visitor, request: HttpRequest) -> None:
    """Wrong uses that a type checker reports."""
    services.get_token("ada@example.com")  # type: ignore[arg-type]
    services.get_token(visitor, "eu")  # type: ignore[arg-type]
    services.identify(request, 1.0)  # type: ignore[call-arg]
    visitor.email = "grace@example.com"  # type: ignore[misc]
    services.identify(request).identity["token"]  # type: ignore[index]
