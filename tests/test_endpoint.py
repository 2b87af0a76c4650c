"""The identity endpoint: what it responds, to which requests, and together with other middleware."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import AsyncClient, Client
from pytest_django import Settings
from support.app_settings import configure
from support.pages import ada, grace, keep_token, subject_for
from support.server import TokenServer
from support.workers import wait_for_workers

from hubspot_identify._tokens import workers
from hubspot_identify._tokens.entries import EXPIRE_AFTER
from hubspot_identify.exceptions import ConfigurationError, UnknownAccountError

pytestmark = pytest.mark.django_db

URL = "/hubspot/identity/"
SCRIPT_HEADERS = {"X-HubSpot-Identify": "1"}
ANONYMOUS = {"subject": None, "identity": None}
ACCOUNTS = {"ACCOUNTS": {"eu": {"PORTAL_ID": "9"}}}

Fetch = Callable[..., Any]


@pytest.fixture
def fetch(request: pytest.FixtureRequest, client: Client) -> Fetch:
    """Send a request with the cookies of ``client``: to the WSGI handler, or to the ASGI handler if parametrised so."""

    def send(url: str = URL, method: str = "get", headers: dict[str, str] = SCRIPT_HEADERS, **arguments: Any) -> Any:
        if getattr(request, "param", "wsgi") == "wsgi":
            return getattr(client, method)(url, headers=headers, **arguments)
        async_client = AsyncClient()
        async_client.cookies = client.cookies
        return async_to_sync(getattr(async_client, method))(url, headers=headers, **arguments)

    return send


both_handlers = pytest.mark.parametrize("fetch", ["wsgi", "asgi"], indirect=True)


def log_in(client: Client, user: User) -> User:
    user.save()
    client.force_login(user)
    return user


@pytest.fixture
def known(client: Client) -> dict[str, Any]:
    """Log in Ada with a cached token, and return what the endpoint responds to her."""
    user = log_in(client, ada())
    return {"subject": subject_for(user), "identity": keep_token(user)}


def content_of(response: HttpResponse) -> Any:
    """Return the JSON of a response with status 200. The token may be some seconds old by now."""
    assert response.status_code == 200
    content = json.loads(response.content)
    if content.get("identity") is not None:
        assert EXPIRE_AFTER - 100 < content["identity"]["expires_in"] <= EXPIRE_AFTER
        content["identity"]["expires_in"] = int(EXPIRE_AFTER)
    return content


# The response


@both_handlers
def test_response_to_a_logged_in_user_is_complete_and_private(fetch: Fetch, known: dict[str, Any]) -> None:
    """It has subject, address, token and lifetime, and headers that forbid storing, embedding and type sniffing."""
    response = fetch()
    assert content_of(response) == known
    assert content_of(fetch(headers={**SCRIPT_HEADERS, "Sec-Fetch-Site": "same-origin"})) == known
    assert list(known["identity"]) == ["email", "token", "expires_in"]
    assert dict(response.headers) == {
        "Content-Type": "application/json",
        "Cache-Control": "private, no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Vary": "*",
    }


def test_anonymous_visitor_gets_no_identity(fetch: Fetch, settings: Settings) -> None:
    """A further request is not worthwhile. A site without sessions and users has only anonymous visitors."""
    response = fetch()
    assert content_of(response) == ANONYMOUS
    assert "Retry-After" not in response.headers
    settings.MIDDLEWARE = []
    assert content_of(fetch()) == ANONYMOUS


def test_former_visitor_is_gone_at_once(fetch: Fetch, client: Client, known: dict[str, Any]) -> None:
    """After logout the visitor is anonymous, and after the login of another user it is that one."""
    assert content_of(fetch()) == known
    client.logout()
    assert content_of(fetch()) == ANONYMOUS
    user = log_in(client, grace())
    keep_token(user)
    assert content_of(fetch())["identity"]["email"] == "grace@example.com"
    assert content_of(fetch())["subject"] == subject_for(user) != known["subject"]


def test_cached_token_is_not_sent_if_the_address_is_not_verified(
    fetch: Fetch, settings: Settings, known: dict[str, Any]
) -> None:
    """The response is that for an anonymous visitor."""
    configure(settings, EMAIL_VERIFIED=lambda user, email: False)
    assert content_of(fetch()) == ANONYMOUS


@both_handlers
@pytest.mark.parametrize("enabled", [False, lambda request: False], ids=["setting", "callable"])
def test_disabled_chat_differs_from_an_anonymous_visitor(
    fetch: Fetch, client: Client, settings: Settings, known: dict[str, Any], enabled: object
) -> None:
    """Pages from before a withdrawal or a deployment remove their chat. The response has nothing about the user."""
    configure(settings, ENABLED=enabled)
    response = fetch()
    assert content_of(response) == {"enabled": False}
    assert (response.headers["Cache-Control"], response.headers["Vary"]) == ("private, no-store", "*")
    assert "Retry-After" not in response.headers
    client.logout()
    assert content_of(fetch()) == {"enabled": False}


@pytest.mark.parametrize("chosen", [False, True])
def test_disabled_account_differs_from_an_anonymous_visitor(
    fetch: Fetch, settings: Settings, known: dict[str, Any], chosen: bool
) -> None:
    """The other accounts have their chat. The URL or ``CHOOSE_ACCOUNT`` selects the account."""
    choose = {"CHOOSE_ACCOUNT": lambda request: "no_chat"} if chosen else {}
    configure(settings, ACCOUNTS={"eu": {"PORTAL_ID": "9"}, "no_chat": {"ENABLED": False}}, **choose)
    assert content_of(fetch(URL if chosen else f"{URL}no_chat/")) == {"enabled": False}
    keep_token(ada(), account="eu")
    assert content_of(fetch(f"{URL}eu/"))["identity"] is not None


def test_consent_is_evaluated_for_each_request(
    fetch: Fetch, client: Client, settings: Settings, known: dict[str, Any]
) -> None:
    """A withdrawal and new consent take effect with the next request."""
    configure(settings, ENABLED=lambda request: request.COOKIES.get("consent") == "yes")
    for cookie, expected in (("yes", known), ("no", {"enabled": False}), ("yes", known)):
        client.cookies["consent"] = cookie
        assert content_of(fetch()) == expected


# Status 200 or 202


@pytest.fixture
def hubspot(hubspot: TokenServer, settings: Settings) -> TokenServer:
    """The token server. A fetch that it holds does not end during the test."""
    configure(settings, TIMEOUT=30)
    return hubspot


def assert_no_identity(response: HttpResponse, subject: str, *, pending: bool) -> None:
    """The response has the subject without an identity, and says whether a further request is worthwhile."""
    assert (response.status_code, json.loads(response.content)) == (
        202 if pending else 200,
        {"subject": subject, "identity": None},
    )
    assert response.headers.get("Retry-After") == ("1" if pending else None)
    assert response.headers["Cache-Control"] == "private, no-store"


def test_identity_is_pending_until_the_token_is_fetched(fetch: Fetch, client: Client, hubspot: TokenServer) -> None:
    """However long the fetch takes, the endpoint responds at once. Then it sends the token."""
    subject = subject_for(log_in(client, ada()))
    hubspot.set_scenario("held")
    assert_no_identity(fetch(), subject, pending=True)
    assert_no_identity(fetch(), subject, pending=True)
    hubspot.release()
    wait_for_workers()
    assert content_of(fetch())["identity"]["token"] in hubspot.emails_by_token()
    assert hubspot.calls == 1


def test_identity_is_pending_while_all_workers_are_busy(
    fetch: Fetch, client: Client, hubspot: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A visitor for whom no worker is free may try again."""
    monkeypatch.setattr(workers, "SLOTS", 2)
    hubspot.set_scenario("held")
    for user in (ada(), grace(), User(pk=3, username="mary", email="mary@example.com")):
        subject = subject_for(log_in(client, user))
        assert_no_identity(fetch(), subject, pending=True)
    hubspot.release()
    wait_for_workers()
    assert hubspot.calls == 2


def test_identity_is_not_pending_while_the_circuit_breaker_is_open(
    fetch: Fetch, client: Client, hubspot: TokenServer
) -> None:
    """A rejected key opens it for all visitors."""
    hubspot.reject_key()
    subject = subject_for(log_in(client, ada()))
    assert_no_identity(fetch(), subject, pending=True)
    wait_for_workers()
    assert_no_identity(fetch(), subject, pending=False)
    subject = subject_for(log_in(client, grace()))
    assert_no_identity(fetch(), subject, pending=False)
    assert hubspot.calls == 1


def test_identity_of_a_refused_visitor_is_not_pending(fetch: Fetch, client: Client, hubspot: TokenServer) -> None:
    """HubSpot has refused one visitor's data. The identities of other visitors are still pending."""
    subject = subject_for(log_in(client, ada()))
    hubspot.answer(400)
    assert_no_identity(fetch(), subject, pending=True)
    wait_for_workers()
    assert_no_identity(fetch(), subject, pending=False)
    subject = subject_for(log_in(client, grace()))
    assert_no_identity(fetch(), subject, pending=True)


# Requests that are refused


@pytest.mark.parametrize("method", ["head", "post"])
def test_other_methods_than_get_are_refused(fetch: Fetch, known: dict[str, Any], method: str) -> None:
    """The response is empty."""
    response = fetch(method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert response.content == b""


def assert_refused(response: HttpResponse) -> None:
    assert response.status_code == 403
    assert response.headers["Content-Type"] == "text/plain"
    assert response.headers["Cache-Control"] == "private, no-store"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    for secret in ("ada@example.com", "token-of-ada"):
        assert secret not in response.content.decode()


@pytest.mark.parametrize("headers", [{}, {"X-HubSpot-Identify": "yes"}])
def test_request_without_the_scripts_header_is_refused(
    fetch: Fetch, known: dict[str, Any], headers: dict[str, str]
) -> None:
    """Navigations, frames, images, forms and simple requests of other sites lack the header."""
    assert_refused(fetch(headers=headers))


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "same-origin, cross-site"])
def test_request_from_another_site_is_refused(fetch: Fetch, known: dict[str, Any], site: str) -> None:
    """The browser says that the request does not come from a script of this origin. The header does not help then."""
    assert_refused(fetch(headers={**SCRIPT_HEADERS, "Sec-Fetch-Site": site}))


CLAIMS = {"email": "grace@example.com", "user": "2", "subject": "x", "account": "eu", "token": "t", "callback": "f"}
CLAIMING_HEADERS = {
    **{f"X-{name}": value for name, value in CLAIMS.items()},
    "From": "grace@example.com",
    "X-Forwarded-User": "grace",
    "Remote-User": "grace",
    "Authorization": "Basic Z3JhY2U6eA==",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "::1",
    "X-Forwarded-Prefix": "/x",
    "X-Original-URL": "/hubspot/identity/eu/",
    "Forwarded": "host=x",
    "X-HTTP-Method-Override": "POST",
    "Accept": "text/html",
    "Origin": "https://evil.example",
    "Content-Type": "application/json",
}


@pytest.mark.parametrize(
    "claim", [{"data": CLAIMS}, {"headers": {**SCRIPT_HEADERS, **CLAIMING_HEADERS}}], ids=["parameters", "headers"]
)
@both_handlers
def test_only_the_session_decides(
    fetch: Fetch, settings: Settings, known: dict[str, Any], claim: dict[str, dict[str, str]]
) -> None:
    """No parameter and no header of the client changes the response."""
    configure(settings, **ACCOUNTS)
    keep_token(ada())
    keep_token(grace())
    plain, claimed = fetch(), fetch(**claim)
    assert content_of(claimed) == content_of(plain) == known
    assert dict(claimed.headers) == dict(plain.headers)


def test_body_is_not_read(client: Client, known: dict[str, Any]) -> None:
    """A body that names another user does not change the response."""
    keep_token(grace())
    body = json.dumps(CLAIMS).encode()
    response: Any = client.generic("GET", URL, body, content_type="application/json", headers=SCRIPT_HEADERS)
    assert content_of(response) == known


def test_only_the_session_cookie_is_read(fetch: Fetch, client: Client, known: dict[str, Any]) -> None:
    """Cookies that name another user do not change the response, which sets none."""
    for name, value in {**CLAIMS, "hubspotutk": "0", "messagesUtk": "1"}.items():
        client.cookies[name] = value
    response = fetch()
    assert content_of(response) == known
    assert not response.cookies


# Accounts and configuration errors


def test_each_account_has_its_own_token_and_subject(fetch: Fetch, settings: Settings, known: dict[str, Any]) -> None:
    """The URL or ``CHOOSE_ACCOUNT`` selects the account."""
    configure(settings, **ACCOUNTS)
    identity = keep_token(ada(), "token-of-eu", account="eu")
    assert content_of(fetch(f"{URL}eu/")) == {"subject": subject_for(ada(), "eu"), "identity": identity}
    assert content_of(fetch(f"{URL}eu/"))["subject"] != known["subject"]
    configure(settings, CHOOSE_ACCOUNT=lambda request: "eu")
    keep_token(ada(), "token-of-eu", account="eu")
    assert content_of(fetch())["identity"] == identity


@pytest.mark.parametrize("name", ["us", "EU", "__class__"])
def test_visitor_of_an_unknown_account_is_anonymous(
    fetch: Fetch, settings: Settings, known: dict[str, Any], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A URL with an unknown account logs nothing and raises nothing, even with ``DEBUG``."""
    configure(settings, **ACCOUNTS)
    for debug in (False, True):
        settings.DEBUG = debug
        assert content_of(fetch(f"{URL}{name}/")) == ANONYMOUS
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize(("chosen", "cookie"), [(False, ""), (False, "0" * 32), (True, "0" * 32)])
def test_unknown_account_cannot_be_distinguished_from_a_known_one(
    fetch: Fetch, client: Client, settings: Settings, chosen: bool, cookie: str
) -> None:
    """Anonymous visitors get the same status, body, headers and cookies, also with a stale session cookie."""
    choose = {"CHOOSE_ACCOUNT": lambda request: request.headers["X-Tenant"]} if chosen else {}
    configure(settings, **ACCOUNTS, **choose)
    responses = []
    for name in ("eu", "us"):
        client.cookies.clear()
        if cookie:
            client.cookies["sessionid"] = cookie
        response = fetch(headers={**SCRIPT_HEADERS, "X-Tenant": name}) if chosen else fetch(f"{URL}{name}/")
        assert content_of(response) == ANONYMOUS
        responses.append((response.content, dict(response.headers), response.cookies.output()))
    assert responses[0] == responses[1]
    assert ("sessionid" in responses[0][2]) is bool(cookie)


@pytest.mark.parametrize(
    ("setting", "value"), [("API_KEY", None), ("EMAIL_VERIFIED", None), ("CHOOSE_ACCOUNT", lambda request: 5)]
)
def test_configuration_error_is_logged_once_and_raised_with_debug(
    fetch: Fetch, settings: Settings, caplog: pytest.LogCaptureFixture, setting: str, value: object
) -> None:
    """In production the status is 503 without an identity."""
    configure(settings, **{setting: value})
    responses = [fetch() for _ in range(3)]
    assert [(response.status_code, json.loads(response.content)) for response in responses] == [(503, ANONYMOUS)] * 3
    assert responses[0].headers["Cache-Control"] == "private, no-store"
    (record,) = [record for record in caplog.records if record.name.startswith("hubspot_identify")]
    assert record.levelno == logging.ERROR
    assert f"HUBSPOT_IDENTIFY['{setting}']" in record.getMessage()
    settings.DEBUG = True
    with pytest.raises(ConfigurationError) as caught:
        fetch()
    assert caught.value.setting == setting


def test_chosen_account_that_does_not_exist_is_logged_once_and_raised_with_debug(
    fetch: Fetch, settings: Settings, known: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """In production the visitor is anonymous."""
    configure(settings, CHOOSE_ACCOUNT=lambda request: "us")
    assert [content_of(fetch()) for _ in range(3)] == [ANONYMOUS] * 3
    (record,) = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert (record.name, record.levelno) == ("hubspot_identify.views", logging.ERROR)
    settings.DEBUG = True
    with pytest.raises(UnknownAccountError):
        fetch()


@pytest.mark.parametrize("host", ["evil.example", "a b"])
def test_forged_host_is_refused(fetch: Fetch, settings: Settings, known: dict[str, Any], host: str) -> None:
    """No middleware of the site needs to check the host."""
    settings.ALLOWED_HOSTS = ["testserver"]
    response = fetch(headers={**SCRIPT_HEADERS, "Host": host})
    assert response.status_code == 400
    assert b"evil" not in response.content
    assert b"token-of-ada" not in response.content
    assert response.headers["Cache-Control"] == "private, no-store"
    assert content_of(fetch()) == known


# Together with other middleware


def test_login_required_middleware_does_not_redirect_the_endpoint(
    fetch: Fetch, client: Client, settings: Settings
) -> None:
    """The script works on the login page of a site that is closed to the public."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert content_of(fetch()) == ANONYMOUS
    assert client.get("/elsewhere/").status_code == 404


def test_conditional_get_middleware_never_responds_with_304(
    fetch: Fetch, settings: Settings, known: dict[str, Any]
) -> None:
    """The response has no validator that a browser could send back."""
    settings.MIDDLEWARE = ["django.middleware.http.ConditionalGetMiddleware", *settings.MIDDLEWARE]
    conditions = {"If-None-Match": "*", "If-Modified-Since": "Wed, 21 Oct 2099 07:28:00 GMT"}
    response = fetch(headers={**SCRIPT_HEADERS, **conditions})
    assert content_of(response) == known
    assert not {"ETag", "Last-Modified"} & set(response.headers)


def test_csrf_middleware_does_not_respond_in_place_of_the_endpoint(settings: Settings) -> None:
    """It would log each such request."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    response = Client(enforce_csrf_checks=True).post(URL)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")


def test_compressed_response_is_complete_and_private(fetch: Fetch, settings: Settings, client: Client) -> None:
    """The response contains nothing of the request, so its compressed length reveals nothing."""
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    token = "x" * 500
    keep_token(log_in(client, ada()), token)
    response = fetch(headers={**SCRIPT_HEADERS, "Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(response.content))["identity"]["token"] == token
    assert response.headers["Cache-Control"] == "private, no-store"


def test_site_wide_cache_stores_no_response(fetch: Fetch, client: Client, settings: Settings) -> None:
    """Django's cache middleware never serves one visitor's response to another."""
    cache = "django.middleware.cache"
    settings.MIDDLEWARE = [
        f"{cache}.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        f"{cache}.FetchFromCacheMiddleware",
    ]
    for user in (ada(), grace(), ada()):
        keep_token(log_in(client, user))
        assert content_of(fetch())["identity"]["token"] == f"token-of-{user.username}"
        client.cookies["sessionid"] = ""
        assert content_of(fetch()) == ANONYMOUS


def test_cors_for_all_origins_does_not_open_the_endpoint(
    fetch: Fetch, settings: Settings, known: dict[str, Any]
) -> None:
    """A site may allow all origins with credentials. No other site can read the identity."""
    settings.MIDDLEWARE = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    settings.CORS_ALLOW_ALL_ORIGINS = True
    settings.CORS_ALLOW_CREDENTIALS = True
    origin = {"Origin": "https://evil.example"}
    preflight = fetch(
        method="options",
        headers={
            **origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "x-hubspot-identify",
        },
    )
    assert preflight.status_code == 200  # of django-cors-headers; the browser obeys the headers it allows
    assert "x-hubspot-identify" not in preflight.headers["Access-Control-Allow-Headers"].lower()
    assert_refused(fetch(headers=origin))
    for site in ("cross-site", "same-site"):
        assert_refused(fetch(headers={**SCRIPT_HEADERS, **origin, "Sec-Fetch-Site": site}))


def test_authorization_without_a_session_is_explained_once(
    fetch: Fetch, known: dict[str, Any], client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A mobile app that calls the endpoint by mistake is anonymous or rejected, and one DEBUG record says why."""
    caplog.set_level(logging.DEBUG, "hubspot_identify")
    authorization = {"Authorization": "Bearer token-of-the-api"}
    assert content_of(fetch(headers={**SCRIPT_HEADERS, **authorization})) == known
    assert content_of(fetch()) == known
    assert caplog.records == []
    client.cookies.clear()
    assert content_of(fetch(headers={**SCRIPT_HEADERS, **authorization})) == ANONYMOUS
    assert fetch(headers=authorization).status_code == 403
    assert content_of(fetch()) == ANONYMOUS
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("hubspot_identify.views", logging.DEBUG)
    assert "docs/clients" in record.getMessage()
    assert "token-of-the-api" not in record.getMessage()
