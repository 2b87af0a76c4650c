"""The endpoint that the browser asks who the visitor is: what it says, to whom, and beside whose middleware."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import AsyncClient, Client
from pytest_django import Settings
from support.pages import ada, grace, keep_token, subject_for

from hubspot_identify.exceptions import ConfigurationError, UnknownAccountError
from hubspot_identify.testing import FakeHubSpot, fake_hubspot

pytestmark = pytest.mark.django_db

URL = "/hubspot/identity/"
OURS = {"X-HubSpot-Identify": "1"}
NOBODY = {"subject": None, "identity": None}
ACCOUNTS = {"ACCOUNTS": {"eu": {"PORTAL_ID": "9"}}}

Ask = Callable[..., HttpResponse]


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest, client: Client) -> Ask:
    """Send a request with the cookies of ``client``, to Django's WSGI and to its ASGI handler."""

    def send(url: str = URL, method: str = "get", headers: dict[str, str] = OURS, **arguments: Any) -> HttpResponse:
        if request.param == "wsgi":
            return getattr(client, method)(url, headers=headers, **arguments)
        async_client = AsyncClient()
        async_client.cookies = client.cookies
        return async_to_sync(getattr(async_client, method))(url, headers=headers, **arguments)

    return send


def log_in(client: Client, user: User) -> User:
    user.save()
    client.force_login(user)
    return user


@pytest.fixture
def known(client: Client) -> dict[str, Any]:
    """Ada is logged in, and there is a token for her; what the endpoint says of her."""
    user = log_in(client, ada())
    return {"subject": subject_for(user), "identity": keep_token(user)}


def answer(response: HttpResponse) -> Any:
    """The JSON of a good answer, whose token may be some seconds old by now."""
    assert response.status_code == 200
    said = json.loads(response.content)
    if said["identity"] is not None:
        assert 41300 < said["identity"]["expires_in"] <= 41400
        said["identity"]["expires_in"] = 41400
    return said


# What it says


def test_known_visitor(ask: Ask, known: dict[str, Any]) -> None:
    """A logged-in user's browser learns subject, e-mail, token and the seconds it may use them, and nothing else."""
    assert answer(ask()) == known
    assert list(known["identity"]) == ["email", "token", "expires_in"]


def test_headers(ask: Ask, known: dict[str, Any]) -> None:
    """Nobody keeps the answer, guesses another type of it, or embeds it in another site."""
    assert dict(ask().headers) == {
        "Content-Type": "application/json",
        "Cache-Control": "private, no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Vary": "*",
    }


def test_nobody(ask: Ask) -> None:
    """An anonymous visitor is told so, with nothing to wait for."""
    response = ask()
    assert answer(response) == NOBODY
    assert "Retry-After" not in response.headers


def test_site_without_sessions(ask: Ask, settings: Settings) -> None:
    """Without any middleware there is no user, and that is nobody."""
    settings.MIDDLEWARE = []
    assert answer(ask()) == NOBODY


def test_former_visitor_is_gone_at_once(ask: Ask, client: Client, known: dict[str, Any]) -> None:
    """After log-out it is nobody, and after the log-in of another it is that one, whatever is cached."""
    assert answer(ask()) == known
    client.logout()
    assert answer(ask()) == NOBODY
    user = log_in(client, grace())
    keep_token(user)
    assert answer(ask())["identity"]["email"] == "grace@example.com"
    assert answer(ask())["subject"] == subject_for(user) != known["subject"]


@pytest.mark.parametrize("enabled", [False, lambda request: False])
def test_switched_off(ask: Ask, settings: Settings, known: dict[str, Any], enabled: object) -> None:
    """Where ``ENABLED`` says no the endpoint knows nobody, whose token may be there from before."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "ENABLED": enabled}
    assert answer(ask()) == NOBODY


@pytest.mark.parametrize("verified", [False, lambda user, email: False])
def test_unverified_address(ask: Ask, settings: Settings, known: dict[str, Any], verified: object) -> None:
    """A user whose address has not been verified gets the response for an anonymous visitor."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "EMAIL_VERIFIED": verified}
    assert answer(ask()) == NOBODY


# 200 or 202


@pytest.fixture
def hubspot() -> Any:
    with fake_hubspot(TIMEOUT=30) as hubspot:
        yield hubspot


def said_no(response: HttpResponse, subject: str, *, again: bool) -> None:
    """The subject, no identity, and whether it's worth asking again."""
    assert (response.status_code, json.loads(response.content)) == (
        202 if again else 200,
        {"subject": subject, "identity": None},
    )
    assert response.headers.get("Retry-After") == ("1" if again else None)
    assert response.headers["Cache-Control"] == "private, no-store"


def test_in_flight(ask: Ask, client: Client, hubspot: FakeHubSpot) -> None:
    """While the token is made, at once, and however long that takes: ask again. Then it is there."""
    subject = subject_for(log_in(client, ada()))
    hubspot.hold()
    said_no(ask(), subject, again=True)
    said_no(ask(), subject, again=True)
    hubspot.release()
    hubspot.settle()
    assert answer(ask())["identity"]["token"] in hubspot.tokens
    assert hubspot.calls == 1


def test_no_free_worker(ask: Ask, client: Client, hubspot: FakeHubSpot) -> None:
    """With all workers busy it is worth asking again."""
    hubspot.hold()
    for user in (ada(), grace(), User(pk=3, username="mary", email="mary@example.com")):
        subject = subject_for(log_in(client, user))
        said_no(ask(), subject, again=True)
    hubspot.release()
    hubspot.settle()
    assert hubspot.calls == 2


def test_open_breaker(ask: Ask, client: Client, hubspot: FakeHubSpot) -> None:
    """With the key refused, and so the breaker open, there is nothing to wait for, for other visitors neither."""
    hubspot.fail(401)
    subject = subject_for(log_in(client, ada()))
    said_no(ask(), subject, again=True)
    hubspot.settle()
    said_no(ask(), subject, again=False)
    subject = subject_for(log_in(client, grace()))
    said_no(ask(), subject, again=False)
    assert hubspot.calls == 1


def test_refused_visitor(ask: Ask, client: Client, hubspot: FakeHubSpot) -> None:
    """Whom HubSpot refuses is not asked for again; others are."""
    subject = subject_for(log_in(client, ada()))
    hubspot.fail(400)
    said_no(ask(), subject, again=True)
    hubspot.settle()
    said_no(ask(), subject, again=False)
    subject = subject_for(log_in(client, grace()))
    said_no(ask(), subject, again=True)


# Who may ask


@pytest.mark.parametrize("method", ["head", "post", "put", "patch", "delete", "options", "trace"])
def test_other_methods(ask: Ask, known: dict[str, Any], method: str) -> None:
    """There is ``GET`` and nothing else."""
    response = ask(method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")
    assert response.content == b""


@pytest.mark.parametrize("headers", [{}, {"X-HubSpot-Identify": ""}, {"X-HubSpot-Identify": "yes"}])
def test_without_our_header(ask: Ask, known: dict[str, Any], headers: dict[str, str]) -> None:
    """A navigation, a frame, an image, a form or another site's simple request is refused, and learns nothing."""
    refused(ask(headers=headers))


def refused(response: HttpResponse) -> None:
    assert response.status_code == 403
    assert response.content == b"Only for scripts of this site."
    assert response.headers["Cache-Control"] == "private, no-store"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "", "SAME-ORIGIN", "same-origin, cross-site"])
def test_from_another_site(ask: Ask, known: dict[str, Any], site: str) -> None:
    """Where the browser says that another site or nobody's script asks, our header doesn't help."""
    refused(ask(headers={**OURS, "Sec-Fetch-Site": site}))


def test_from_this_site(ask: Ask, known: dict[str, Any]) -> None:
    """Our own script is answered, and so is one in a browser that does not say where it is from."""
    assert answer(ask(headers={**OURS, "Sec-Fetch-Site": "same-origin"})) == known


CLAIMS = {"email": "grace@example.com", "user": "2", "subject": "x", "account": "eu", "token": "t", "callback": "f"}


@pytest.mark.parametrize(
    "claim",
    [
        {"data": CLAIMS},
        {"headers": {**OURS, **{f"X-{name}": value for name, value in CLAIMS.items()}, "From": "grace@example.com"}},
        {
            "headers": {
                **OURS,
                "X-Forwarded-User": "grace",
                "Remote-User": "grace",
                "Authorization": "Basic Z3JhY2U6eA==",
            }
        },
        {
            "headers": {
                **OURS,
                "X-Forwarded-Host": "evil.example",
                "X-Forwarded-Proto": "https",
                "X-Forwarded-For": "::1",
            }
        },
        {
            "headers": {
                **OURS,
                "X-Forwarded-Prefix": "/x",
                "X-Original-URL": "/hubspot/identity/eu/",
                "Forwarded": "host=x",
            }
        },
        {
            "headers": {
                **OURS,
                "X-HTTP-Method-Override": "POST",
                "Accept": "text/html",
                "Origin": "https://evil.example",
            }
        },
        {"headers": {**OURS, "Content-Type": "application/json", "Content-Length": "29"}},
    ],
    ids=["parameters", "headers", "user headers", "forwarded", "rewritten", "negotiation", "body"],
)
def test_only_the_session_decides(
    ask: Ask, settings: Settings, known: dict[str, Any], claim: dict[str, dict[str, str]]
) -> None:
    """No parameter and no header of the client changes what is answered."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **ACCOUNTS}
    keep_token(ada())
    keep_token(grace())
    plain, claimed = ask(), ask(**claim)
    assert answer(claimed) == answer(plain) == known
    assert dict(claimed.headers) == dict(plain.headers)


def test_body_is_not_read(client: Client, known: dict[str, Any]) -> None:
    """A body that names somebody else changes nothing."""
    keep_token(grace())
    body = json.dumps(CLAIMS).encode()
    assert answer(client.generic("GET", URL, body, content_type="application/json", headers=OURS)) == known


def test_cookies_but_the_sessions_are_not_read(ask: Ask, client: Client, known: dict[str, Any]) -> None:
    """Cookies that name somebody else change nothing, and none is set."""
    for name, value in {**CLAIMS, "hubspotutk": "0", "messagesUtk": "1"}.items():
        client.cookies[name] = value
    response = ask()
    assert answer(response) == known
    assert not response.cookies


# Accounts and mistakes


def test_account(ask: Ask, settings: Settings, known: dict[str, Any]) -> None:
    """Each account has an address of its own, and a token and a subject too."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **ACCOUNTS}
    identity = keep_token(ada(), "token-of-eu", account="eu")
    assert answer(ask(f"{URL}eu/")) == {"subject": subject_for(ada(), "eu"), "identity": identity}
    assert answer(ask(f"{URL}eu/"))["subject"] != known["subject"]
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "CHOOSE_ACCOUNT": lambda request: "eu"}
    keep_token(ada(), "token-of-eu", account="eu")
    assert answer(ask())["identity"] == identity


@pytest.mark.parametrize("name", ["us", "EU", "__class__", "-"])
def test_unknown_account_looks_like_one_of_an_anonymous_visitor(
    ask: Ask, settings: Settings, known: dict[str, Any], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The URL of an unknown account has no visitor, also under ``DEBUG``, and is nothing to log."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **ACCOUNTS}
    for debug in (False, True):
        settings.DEBUG = debug
        assert answer(ask(f"{URL}{name}/")) == NOBODY
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("cookie", ["", "0" * 32])
@pytest.mark.parametrize("chosen", [False, True])
def test_unknown_account_cannot_be_distinguished_from_a_known_one(
    ask: Ask, client: Client, settings: Settings, chosen: bool, cookie: str
) -> None:
    """Anonymous visitors get the same status, body, headers and cookies, also with a stale session cookie."""
    choose = {"CHOOSE_ACCOUNT": lambda request: request.headers["X-Tenant"]} if chosen else {}
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **ACCOUNTS, **choose}
    seen = []
    for name in ("eu", "us"):
        client.cookies.clear()
        if cookie:
            client.cookies["sessionid"] = cookie
        response = ask(headers={**OURS, "X-Tenant": name}) if chosen else ask(f"{URL}{name}/")
        assert answer(response) == NOBODY
        seen.append((response.content, dict(response.headers), response.cookies.output()))
    assert seen[0] == seen[1]
    assert ("sessionid" in seen[0][2]) is bool(cookie)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"API_KEY": None}, r"HUBSPOT_IDENTIFY\['API_KEY'\]"),
        ({"EMAIL_VERIFIED": None}, r"HUBSPOT_IDENTIFY\['EMAIL_VERIFIED'\]"),
        ({"CHOOSE_ACCOUNT": lambda request: 5}, r"HUBSPOT_IDENTIFY\['CHOOSE_ACCOUNT'\]"),
    ],
)
def test_wrong_settings(
    ask: Ask, settings: Settings, caplog: pytest.LogCaptureFixture, values: dict[str, object], complaint: str
) -> None:
    """In production the browser hears 503 and the log one ERROR; under ``DEBUG`` the developer sees it at once."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, **values}
    responses = [ask() for _ in range(3)]
    assert [(response.status_code, json.loads(response.content)) for response in responses] == [(503, NOBODY)] * 3
    assert responses[0].headers["Cache-Control"] == "private, no-store"
    ((level, message),) = [
        (level, message) for name, level, message in caplog.record_tuples if name.startswith("hubspot_identify")
    ]
    assert level == logging.ERROR
    assert re.search(complaint, message)
    settings.DEBUG = True
    with pytest.raises(ConfigurationError, match=complaint):
        ask()


def test_chosen_account_that_does_not_exist(
    ask: Ask, settings: Settings, known: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """In production the visitor is anonymous and the log has one ERROR; under ``DEBUG`` the error is raised."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "CHOOSE_ACCOUNT": lambda request: "us"}
    assert [answer(ask()) for _ in range(3)] == [NOBODY] * 3
    (record,) = [record for record in caplog.records if record.levelno > logging.DEBUG]
    assert (record.name, record.levelno) == ("hubspot_identify.views", logging.ERROR)
    settings.DEBUG = True
    with pytest.raises(UnknownAccountError):
        ask()


@pytest.mark.parametrize("host", ["evil.example", "testserver:80:80", "a b"])
def test_forged_host_is_refused(ask: Ask, settings: Settings, known: dict[str, Any], host: str) -> None:
    """Also on a site without a middleware that looks at the host."""
    settings.ALLOWED_HOSTS = ["testserver"]
    response = ask(headers={**OURS, "Host": host})
    assert response.status_code == 400
    assert b"evil" not in response.content
    assert b"token-of-ada" not in response.content
    assert response.headers["Cache-Control"] == "private, no-store"
    assert answer(ask()) == known


# Beside other middleware


def test_login_required_middleware(ask: Ask, client: Client, settings: Settings) -> None:
    """On a site that is closed to the public, the log-in page's script is answered too, not sent to log in."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert answer(ask()) == NOBODY
    assert client.get("/elsewhere/").status_code == 404


def test_conditional_get_middleware(ask: Ask, settings: Settings, known: dict[str, Any]) -> None:
    """The answer has no ETag to come back with, and is never 304."""
    settings.MIDDLEWARE = ["django.middleware.http.ConditionalGetMiddleware", *settings.MIDDLEWARE]
    response = ask(headers={**OURS, "If-None-Match": "*", "If-Modified-Since": "Wed, 21 Oct 2099 07:28:00 GMT"})
    assert answer(response) == known
    assert not {"ETag", "Last-Modified"} & set(response.headers)


def test_csrf_middleware(client: Client, settings: Settings) -> None:
    """Django's CSRF middleware does not respond, and log, in place of the endpoint."""
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.middleware.csrf.CsrfViewMiddleware"]
    response = Client(enforce_csrf_checks=True).post(URL)
    assert (response.status_code, response.headers["Allow"]) == (405, "GET")


def test_gzip_middleware(ask: Ask, settings: Settings, client: Client) -> None:
    """Compressed, it is the same answer. Nothing of the request is in it, so its length gives nothing away."""
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    token = "x" * 500
    keep_token(log_in(client, ada()), token)
    response = ask(headers={**OURS, "Accept-Encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(response.content))["identity"]["token"] == token
    assert response.headers["Cache-Control"] == "private, no-store"


def test_site_wide_cache(ask: Ask, client: Client, settings: Settings) -> None:
    """A cache over the whole site keeps no answer."""
    cache = "django.middleware.cache"
    settings.MIDDLEWARE = [
        f"{cache}.UpdateCacheMiddleware",
        *settings.MIDDLEWARE,
        f"{cache}.FetchFromCacheMiddleware",
    ]
    for user in (ada(), grace(), ada()):
        keep_token(log_in(client, user))
        assert answer(ask())["identity"]["token"] == f"token-of-{user.username}"
        client.cookies["sessionid"] = ""
        assert answer(ask()) == NOBODY


def test_cors_with_everything_allowed(ask: Ask, settings: Settings, known: dict[str, Any]) -> None:
    """Even a site that lets all origins in, with credentials, lets no other site ask who its visitor is."""
    settings.MIDDLEWARE = ["corsheaders.middleware.CorsMiddleware", *settings.MIDDLEWARE]
    settings.CORS_ALLOW_ALL_ORIGINS = True
    settings.CORS_ALLOW_CREDENTIALS = True
    origin = {"Origin": "https://evil.example"}
    preflight = ask(
        method="options",
        headers={
            **origin,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "x-hubspot-identify",
        },
    )
    assert preflight.status_code == 200  # django-cors-headers answers before us, and the browser goes by what it allows
    assert "x-hubspot-identify" not in preflight.headers["Access-Control-Allow-Headers"].lower()
    refused(ask(headers=origin))
    for site in ("cross-site", "same-site"):
        refused(ask(headers={**OURS, **origin, "Sec-Fetch-Site": site}))
