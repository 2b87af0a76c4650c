"""No secrets and no personal data in logs, exceptions, debug pages, cache keys or signals.

The tests end a call in many ways, with all loggers at DEBUG, against a server that sends back what it received.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import StringIO
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import User
from django.core.cache import caches
from django.core.management import call_command
from django.test import RequestFactory
from django.views.debug import ExceptionReporter
from pytest_django import Settings
from support.clocks import GENEROUS_TIMEOUT
from support.server import TokenServer

from hubspot_identify import services, signals
from hubspot_identify._hubspot import client as client_module
from hubspot_identify.conf import get_config
from hubspot_identify.exceptions import HubSpotIdentifyError
from hubspot_identify.testing import join_threads
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-5ec2e7.5ec2e7"
EMAIL = "ada.lovelace@example.com"
NAMES = ("Augusta", "Byron-King")
CONTEXT = "context-of-the-visitor"
TOKEN = "t0ken-0f-the-visit0r"
ADA = Visitor(EMAIL, *NAMES, context=(("plan", CONTEXT),))


#: The texts that must not be found, each in the spellings that libraries and servers use.
SECRETS = tuple(
    spelling.lower()
    for secret in (KEY, EMAIL, EMAIL.partition("@")[0], TOKEN, *NAMES, CONTEXT)
    for spelling in (secret, quote(secret, safe=""), quote(quote(secret, safe=""), safe=""))
)
#: A word of the response body. Only ``hubspot_message`` may contain it.
MARK = "words-of-the-body"

#: The response of a malicious server, or of a proxy that shows everything it received.
ECHO = {
    "category": KEY,
    "errorType": EMAIL,
    "correlationId": f"id\nERROR forged by {EMAIL}",
    "policyName": f"{KEY}",
    "message": f"{MARK} {EMAIL} {EMAIL.upper()} {quote(EMAIL)} Bearer {KEY} ?hapikey={KEY}\nERROR forged "
    f"{NAMES[0].upper()} firstName={NAMES[1]} {CONTEXT}",
    "context": {EMAIL: [KEY, EMAIL], NAMES[0]: [NAMES[1], CONTEXT]},
    "links": {KEY: f"https://x.example/?email={quote(EMAIL)}&hapikey={KEY}&name={NAMES[0]}+{NAMES[1]}#{CONTEXT}"},
}
ECHO_TEXT = json.dumps(ECHO)
GZIP = {"Content-Encoding": "gzip"}
HEADERS_OF_SECRETS = {f"{KEY} {EMAIL}\r\n{TOKEN} Bearer {KEY}\r\nX-Other": "1"}
HEADERS_WITH_A_TOKEN = {f'{{"token": "{TOKEN}", "email" "{EMAIL}"}}\r\nX-Other': "1"}


@dataclass(frozen=True)
class Failure:
    """A way for a call to fail."""

    scenario: Any
    options: dict[str, Any] = field(default_factory=dict)
    https: bool = False
    #: Whether the server ends the call, and not a timeout.
    ends: bool = True


#: In the scheme "hapikey" the key is part of the URL, which libraries log and quote in their exceptions.
FAILURES = {
    **{
        f"status {status}": Failure("answer", {"status": status, "body": ECHO})
        for status in (400, 401, 403, 429, 503, 600)
    },
    "error as HTML": Failure("answer", {"status": 502, "body": f"<html>{ECHO_TEXT}"}),
    "HTML": Failure("answer", {"body": f"<html>{ECHO_TEXT}", "headers": {"Content-Type": "text/html"}}),
    "no token": Failure("answer", {"body": ECHO}),
    "invalid token": Failure("answer", {"body": {"token": f"{TOKEN}&{EMAIL}"}}),
    "too long": Failure("answer", {"body": ECHO_TEXT * 1000}),
    "invalid gzip": Failure("answer", {"body": ECHO_TEXT, "headers": GZIP}),
    "truncated gzip": Failure("answer", {"body": gzip.compress(ECHO_TEXT.encode())[:-9], "headers": GZIP}),
    "truncated": Failure(
        "answer", {"body": ECHO_TEXT, "headers": {"Content-Length": "9000", "Connection": "close"}}, ends=False
    ),
    "invalid headers": Failure("answer", {"status": 400, "body": ECHO, "headers": HEADERS_OF_SECRETS}),
    "token in place of headers": Failure("answer", {"body": "", "headers": HEADERS_WITH_A_TOKEN}),
    "redirect": Failure("redirect", {"location": f"https://x.example/?hapikey={KEY}&email={EMAIL}"}),
    "reset": Failure("reset"),
    "refused": Failure("refused"),
    "connect timeout": Failure("unconnectable", ends=False),
    "read timeout": Failure("hang", ends=False),
    "read timeout after headers": Failure("hang_after_headers", ends=False),
    "no TLS": Failure("html", https=True, ends=False),
    "timeout in TLS": Failure("hang", https=True, ends=False),
}
#: The scheme "bearer" has the key in a header. It makes a difference where a library may log or quote headers.
FAILURES_WITH_BEARER = ("status 400", "invalid headers", "truncated", "reset", "read timeout", "no TLS")


def set_socket_timeouts(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("CONNECT_TIMEOUT", "READ_TIMEOUT"):
        monkeypatch.setattr(client_module, limit, seconds)


@pytest.fixture
def scheme(request: pytest.FixtureRequest) -> str:
    """The ``AUTH_SCHEME`` of the site."""
    return str(getattr(request, "param", "hapikey"))


@pytest.fixture
def hubspot(token_server: TokenServer, settings: Settings, scheme: str, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """A token server, and settings that use it."""
    set_socket_timeouts(GENEROUS_TIMEOUT, monkeypatch)
    settings.HUBSPOT_IDENTIFY = {
        "API_KEY": KEY,
        "EMAIL_VERIFIED": True,
        "BASE_URL": token_server.url,
        "AUTH_SCHEME": scheme,
        "TIMEOUT": GENEROUS_TIMEOUT,
    }
    return token_server


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """A function that returns all lines of all loggers, as a log file would contain them."""
    caplog.set_level(logging.DEBUG)
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")

    def text() -> str:
        return "\n".join(formatter.format(record) for record in caplog.records)

    return text


@pytest.fixture
def signals_sent() -> Iterator[list[dict[str, Any]]]:
    """The arguments of the app's signals."""
    sent: list[dict[str, Any]] = []

    def receive(**arguments: Any) -> None:
        sent.append(arguments)

    for signal in (signals.token_created, signals.token_failed):
        signal.connect(receive)
    yield sent
    for signal in (signals.token_created, signals.token_failed):
        signal.disconnect(receive)


def error_of_a_call() -> HubSpotIdentifyError:
    with pytest.raises(HubSpotIdentifyError) as caught:
        services.create_token(ADA)
    return caught.value


def texts_of(error: BaseException) -> Iterator[str]:
    """Return an exception as it may be printed. No other exception is chained to it."""
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
    assert (error.__cause__, error.__context__) == (None, None)


def reports_of(error: BaseException, settings: Settings) -> Iterator[str]:
    """Return Django's debug page and its e-mail to the admins, with the variables of all stack frames."""
    for debug in (True, False):
        settings.DEBUG = debug
        reporter = ExceptionReporter(RequestFactory().get("/"), type(error), error, error.__traceback__)
        yield reporter.get_traceback_html()
        yield reporter.get_traceback_text()


def cache_keys() -> list[str]:
    cache: Any = caches["default"]
    return [key for key in cache._cache if "hubspot_identify" in key]


def found_in(text: str) -> list[str]:
    """Return the texts in it that must not be there."""
    return [secret for secret in (*SECRETS, MARK) if secret in text.lower()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scheme"),
    [*((name, "hapikey") for name in FAILURES), *((name, "bearer") for name in FAILURES_WITH_BEARER)],
    indirect=["scheme"],
)
def test_failed_call_discloses_no_secret(
    name: str,
    hubspot: TokenServer,
    settings: Settings,
    logged: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
    signals_sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exception, its reports by Django, the logs, the cache keys and the signals contain none."""
    failure = FAILURES[name]
    if not failure.ends:
        set_socket_timeouts(0.3, monkeypatch)
    if failure.https:
        settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": hubspot.https_url}
    hubspot.set_scenario(failure.scenario, **failure.options)

    error = error_of_a_call()
    message = getattr(error, "hubspot_message", "")
    assert set(found_in(message)) <= {MARK}
    for text in texts_of(error):
        assert found_in(text.replace(repr(message), "")) == []
    for report in reports_of(error, settings):
        assert type(error).__name__ in report
        assert found_in(report) == []

    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    log = logged()
    warnings = [
        record
        for record in caplog.records
        if record.name.startswith("hubspot_identify.") and record.levelno >= logging.WARNING
    ]
    assert len(warnings) == 1
    assert any(record.name == "urllib3.connectionpool" and record.levelno == logging.DEBUG for record in caplog.records)
    assert found_in(log) == []
    assert not re.search(r"^ERROR forged", log, re.MULTILINE)

    assert join_threads(GENEROUS_TIMEOUT)
    (sent,) = signals_sent
    sent["error"].hubspot_message = ""
    for report in reports_of(sent["error"], settings):
        assert found_in(report) == []
    assert type(sent["error"]) is type(error)
    assert found_in(repr(sent)) == []
    assert cache_keys()
    assert found_in(repr(cache_keys())) == []


@pytest.mark.parametrize("scheme", ["bearer", "hapikey"], indirect=True)
def test_successful_call_discloses_no_secret(
    hubspot: TokenServer, logged: Callable[[], str], signals_sent: list[dict[str, Any]]
) -> None:
    """The log and the signals contain none, and no ``repr`` shows the token."""
    hubspot.answer(200, {"token": TOKEN})
    token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
    assert token is not None
    assert token.value == TOKEN
    log = logged()
    assert '"POST /conversations/v3/visitor-identification/tokens/create HTTP/1.1" 200' in log
    for text in (log, repr(token), repr(ADA), repr(signals_sent), repr(cache_keys())):
        assert text
        assert found_in(text) == []


def raises() -> str:
    raise RuntimeError(f"the vault has {KEY}")


def returns_two_lines() -> str:
    return f"{KEY}\r\nAuthorization: {KEY}"


@pytest.mark.parametrize("api_key", [raises, returns_two_lines])
def test_failure_of_a_callable_key_discloses_no_secret(
    hubspot: TokenServer, settings: Settings, logged: Callable[[], str], api_key: Callable[[], str]
) -> None:
    """What the site's callable raised or returned is neither quoted, chained nor logged."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "API_KEY": api_key}
    error = error_of_a_call()
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    for text in (*texts_of(error), *reports_of(error, settings), logged()):
        assert found_in(text) == []


@pytest.mark.parametrize("setting", ["ENABLED", "IMPERSONATED", "VISITOR", "EMAIL_VERIFIED", "CHOOSE_ACCOUNT"])
def test_stack_frames_contain_no_secret_if_a_callable_of_the_site_raises(settings: Settings, setting: str) -> None:
    """Django's debug page shows the variables of the app's frames as well."""

    def fail(*args: object) -> None:
        raise RuntimeError("a bug of the site")

    settings.HUBSPOT_IDENTIFY = {
        "API_KEY": KEY,
        "EMAIL_VERIFIED": True,
        "VISITOR": lambda user, request: ADA,
        setting: fail,
    }
    request = RequestFactory().get("/")
    request.user = User(pk=1, username="ada", email=EMAIL, first_name=NAMES[0], last_name=NAMES[1])
    settings.DEBUG = True  # otherwise, only the location is logged
    with pytest.raises(RuntimeError) as caught:
        services.identify(request)
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb) if "/hubspot_identify/" in frame.f_code.co_filename]
    assert frames
    assert found_in(repr([frame.f_locals for frame in frames])) == []


def test_unexpected_exception_is_logged_without_its_text(
    hubspot: TokenServer, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log says where it was raised. Its text may contain anything."""

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"{KEY} {EMAIL}")

    monkeypatch.setattr(client_module, "_request_body", fail)
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    log = logged()
    assert "AssertionError" in log
    assert found_in(log.replace("{KEY} {EMAIL}", "")) == []


def test_log_records_of_other_clients_are_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    """What urllib3 logs for the rest of the site is unchanged, tracebacks included."""
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3.connectionpool", "urllib3.connection"):
        try:
            raise ValueError("theirs")
        except ValueError:
            logging.getLogger(name).warning("Failed to parse headers (url=%s)", "https://x.example", exc_info=True)
    assert caplog.messages == ["Failed to parse headers (url=https://x.example)"] * 2
    assert all(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("is_function", [False, True])
def test_diffsettings_prints_the_key_unless_it_is_a_function(settings: Settings, is_function: bool) -> None:
    """Django's command prints the ``repr`` of every setting, as SECURITY.rst documents."""

    def key_of_the_site() -> str:
        return KEY

    assert key_of_the_site() == KEY
    key = key_of_the_site if is_function else KEY
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "API_KEY": key}
    printed = call_command("diffsettings", all=True, stdout=StringIO())
    assert (KEY in printed, "key_of_the_site" in printed) == (not is_function, is_function)
    assert get_config().api_key == key
