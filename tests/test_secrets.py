"""Nothing secret and nothing personal where it could be read later: logs, errors, reports, cache keys, signals.

Every way a call can end, in both authentication schemes, with all loggers at DEBUG, against a server that sends back
all it was told.
"""

from __future__ import annotations

import gzip
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

from hubspot_identify import client as client_module
from hubspot_identify import services, signals
from hubspot_identify.background import get_workers
from hubspot_identify.conf import get_config
from hubspot_identify.exceptions import HubSpotIdentifyError
from hubspot_identify.visitors import Visitor

KEY = "pat-na1-5ec2e7.5ec2e7"
EMAIL = "ada.lovelace@example.com"
NAMES = ("Augusta", "Byron-King")
CONTEXT = "context-of-the-visitor"
TOKEN = "t0ken-0f-the-visit0r"
ADA = Visitor(EMAIL, *NAMES, context=(("plan", CONTEXT),))


#: All that must not be found, each in the spellings that libraries and servers use.
SECRETS = {
    spelling.lower()
    for secret in (
        KEY,
        EMAIL,
        EMAIL.partition("@")[0],
        TOKEN,
        *NAMES,
        CONTEXT,
    )
    for spelling in (secret, quote(secret, safe=""), quote(quote(secret, safe=""), safe=""))
}
#: Where the texts of an answer came from.
MARK = "words-of-the-body"

#: What a server sends back that means no good, or a proxy that shows all it knows.
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


@dataclass(frozen=True)
class Ending:
    """One way for a call to end."""

    scenario: Any
    options: dict[str, Any]
    https: bool = False
    answers: bool = True


ENDINGS = {
    **{
        f"status {status}": Ending("answer", {"status": status, "body": ECHO})
        for status in (400, 401, 402, 403, 404, 405, 410, 415, 422, 423, 429, 477, 500, 502, 503, 504, 525, 600)
    },
    "refusal as html": Ending("answer", {"status": 502, "body": f"<html>{ECHO_TEXT}"}),
    "html": Ending("answer", {"body": f"<html>{ECHO_TEXT}", "headers": {"Content-Type": "text/html"}}),
    "no token": Ending("answer", {"body": ECHO}),
    "no json": Ending("answer", {"body": f"{{{ECHO_TEXT}"}),
    "odd token": Ending("answer", {"body": {"token": f"{TOKEN}&{EMAIL}"}}),
    "huge": Ending("answer", {"body": ECHO_TEXT * 1000}),
    "bad gzip": Ending("answer", {"body": ECHO_TEXT, "headers": {"Content-Encoding": "gzip"}}),
    "broken off gzip": Ending(
        "answer", {"body": gzip.compress(ECHO_TEXT.encode())[:-9], "headers": {"Content-Encoding": "gzip"}}
    ),
    "truncated": Ending(
        "answer", {"body": ECHO_TEXT, "headers": {"Content-Length": "9000", "Connection": "close"}}, answers=False
    ),
    "headers that are none": Ending(
        "answer", {"status": 400, "body": ECHO, "headers": {f"{KEY} {EMAIL}\r\n{TOKEN} Bearer {KEY}\r\nX-Other": "1"}}
    ),
    "a token in the place of headers": Ending(
        "answer", {"body": "", "headers": {f'{{"token": "{TOKEN}", "email" "{EMAIL}"}}\r\nX-Other': "1"}}
    ),
    "redirect": Ending("redirect", {"location": f"https://x.example/?hapikey={KEY}&email={EMAIL}"}),
    "empty": Ending("empty", {}),
    "bomb": Ending("bomb", {"size": 2 * 1024 * 1024}),
    "endless body": Ending("endless_body", {}),
    "reset": Ending("reset", {}),
    "refused": Ending("refused", {}),
    "unconnectable": Ending("unconnectable", {}, answers=False),
    "hang": Ending("hang", {}, answers=False),
    "hang after headers": Ending("hang_after_headers", {}, answers=False),
    "no TLS": Ending("html", {}, https=True, answers=False),
    "hang in TLS": Ending("hang", {}, https=True, answers=False),
}  # fmt: skip


@pytest.fixture(params=["bearer", "hapikey"])
def scheme(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def wait_on_the_wire(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("CONNECT_TIMEOUT", "READ_TIMEOUT"):
        monkeypatch.setattr(client_module, limit, seconds)


@pytest.fixture
def hubspot(token_server: TokenServer, settings: Settings, scheme: str, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """A server of any scenario behind the live settings."""
    wait_on_the_wire(GENEROUS_TIMEOUT, monkeypatch)
    settings.HUBSPOT_IDENTIFY = {
        "API_KEY": KEY,
        "EMAIL_VERIFIED": True,
        "BASE_URL": token_server.url,
        "AUTH_SCHEME": scheme,
        "TIMEOUT": GENEROUS_TIMEOUT,
    }
    return token_server


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """All lines of all loggers so far, as a file would hold them."""
    caplog.set_level(logging.DEBUG)
    formatter = logging.Formatter("%(levelname)s %(name)s %(message)s")

    def text() -> str:
        return "\n".join(formatter.format(record) for record in caplog.records)

    return text


@pytest.fixture
def signals_sent() -> Iterator[list[dict[str, Any]]]:
    sent: list[dict[str, Any]] = []

    def receive(**arguments: Any) -> None:
        sent.append(arguments)

    for signal in (signals.token_created, signals.token_failed):
        signal.connect(receive)
    yield sent
    for signal in (signals.token_created, signals.token_failed):
        signal.disconnect(receive)


def error_of_a_call(visitor: Visitor) -> HubSpotIdentifyError:
    try:
        services.create_token(visitor)
    except HubSpotIdentifyError as error:
        return error
    raise AssertionError("a token was made")


def texts_of(error: BaseException) -> Iterator[str]:
    """An error as it is printed; nothing hangs on it that could be printed as well."""
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
    assert (error.__cause__, error.__context__) == (None, None)


def reports_of(error: BaseException, settings: Settings) -> Iterator[str]:
    """Django's page for the developer, and its mail to the admins, with the variables of all frames."""
    for debug in (True, False):
        settings.DEBUG = debug
        reporter = ExceptionReporter(RequestFactory().get("/"), type(error), error, error.__traceback__)
        yield reporter.get_traceback_html()
        yield reporter.get_traceback_text()


def keys_of_the_cache() -> list[str]:
    return [key for key in caches["default"]._cache if "hubspot_identify" in key]


def found_in(text: str) -> set[str]:
    return {secret for secret in {*SECRETS, MARK} if secret in text.lower()}


@pytest.mark.parametrize("name", ENDINGS)
def test_no_ending_of_a_call_tells_a_secret(
    name: str,
    hubspot: TokenServer,
    settings: Settings,
    everything_logged: Callable[[], str],
    signals_sent: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Errors with all that hangs on them, their reports by Django, all logs, cache keys and signals: clean."""
    ending = ENDINGS[name]
    if not ending.answers:
        wait_on_the_wire(0.7, monkeypatch)
    if ending.https:
        settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": hubspot.https_url}
    hubspot.set_scenario(ending.scenario, **ending.options)

    error = error_of_a_call(ADA)
    message = getattr(error, "hubspot_message", "")
    assert found_in(message) <= {MARK}
    for text in texts_of(error):
        assert found_in(text.replace(repr(message), "")) == set()
    for report in reports_of(error, settings):
        assert type(error).__name__ in report
        assert found_in(report) == set()

    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    log = everything_logged()
    assert len(re.findall(r"^(?:WARNING|ERROR) hubspot_identify\.(?:flights|breaker) ", log, re.MULTILINE)) == 1
    assert "DEBUG urllib3.connectionpool Starting new HTTP" in log
    assert found_in(log) == set()
    assert not re.search(r"^ERROR forged", log, re.MULTILINE)

    assert get_workers().join(GENEROUS_TIMEOUT)
    (sent,) = signals_sent
    sent["error"].hubspot_message = ""
    for report in reports_of(sent["error"], settings):
        assert found_in(report) == set()
    assert type(sent["error"]) is type(error)
    assert found_in(repr(sent)) == set()
    assert keys_of_the_cache()
    assert found_in(repr(keys_of_the_cache())) == set()


def test_no_success_tells_a_secret(
    hubspot: TokenServer,
    everything_logged: Callable[[], str],
    signals_sent: list[dict[str, Any]],
    scheme: str,
) -> None:
    """The same where all goes well; the token is in the cache, and nobody reads it in a repr."""
    hubspot.answer(200, {"token": TOKEN})
    token = services.get_token(ADA, wait=GENEROUS_TIMEOUT)
    assert token is not None
    assert token.value == TOKEN
    shown = "***" if scheme == "hapikey" else None
    path = "/conversations/v3/visitor-identification/tokens/create" + (f"?hapikey={shown}" if shown else "")
    log = everything_logged()
    assert f'"POST {path} HTTP/1.1" 200' in log
    for text in (log, repr(token), repr(ADA), repr(signals_sent), repr(keys_of_the_cache())):
        assert text
        assert found_in(text) == set()


@pytest.mark.parametrize("failing", ["raises", "returns"])
def test_no_callable_key_is_told_by_its_failure(
    hubspot: TokenServer, settings: Settings, everything_logged: Callable[[], str], failing: str
) -> None:
    """Neither what the site's callable raised nor what it returned is quoted, chained or logged."""

    def raises() -> str:
        raise RuntimeError(f"the vault says {KEY}")

    def returns() -> str:
        return f"{KEY}\r\nAuthorization: {KEY}"

    settings.HUBSPOT_IDENTIFY = {
        **settings.HUBSPOT_IDENTIFY,
        "API_KEY": {"raises": raises, "returns": returns}[failing],
    }
    error = error_of_a_call(ADA)
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    for text in (*texts_of(error), *reports_of(error, settings), everything_logged()):
        assert found_in(text) == set()


@pytest.mark.parametrize("setting", ["ENABLED", "IMPERSONATED", "VISITOR", "EMAIL_VERIFIED", "CHOOSE_ACCOUNT"])
def test_no_frame_of_ours_below_a_failing_callable_holds_a_secret(settings: Settings, setting: str) -> None:
    """A callable of the site's that raises is shown by Django's debug page together with our frames."""

    def fail(*args: object) -> None:
        raise RuntimeError("a mistake of the site's")

    settings.HUBSPOT_IDENTIFY = {
        "API_KEY": KEY,
        "EMAIL_VERIFIED": True,
        "VISITOR": lambda user, request: ADA,
        setting: fail,
    }
    request = RequestFactory().get("/")
    request.user = User(pk=1, username="ada", email=EMAIL, first_name=NAMES[0], last_name=NAMES[1])
    with pytest.raises(RuntimeError) as caught:
        services.identify(request)
    frames = [frame for frame, _ in traceback.walk_tb(caught.tb) if "/hubspot_identify/" in frame.f_code.co_filename]
    assert frames
    assert found_in(repr([frame.f_locals for frame in frames])) == set()


def test_a_mistake_of_ours_is_logged_without_its_text(
    hubspot: TokenServer, everything_logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a call raise what nobody foresaw, the log says where, and not what: that may hold anything."""

    def mistake(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"{KEY} {EMAIL}")

    monkeypatch.setattr(client_module, "_token_request", mistake)
    assert services.get_token(ADA, wait=GENEROUS_TIMEOUT) is None
    log = everything_logged()
    assert "AssertionError" in log
    assert found_in(log.replace("{KEY} {EMAIL}", "")) == set()


def test_lines_of_other_clients_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """What urllib3 logs for the rest of the site stays as it is, its tracebacks included."""
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
    """Django's command prints every setting with its ``repr``, which SECURITY.rst says of it."""

    def key_of_the_site() -> str:
        return KEY

    assert key_of_the_site() == KEY
    key = key_of_the_site if is_function else KEY
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "API_KEY": key}
    printed = call_command("diffsettings", all=True, stdout=StringIO())
    assert (KEY in printed, "key_of_the_site" in printed) == (not is_function, is_function)
    assert get_config().api_key == key
