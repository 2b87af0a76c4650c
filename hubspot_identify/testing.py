"""A fake HubSpot for the test suites of sites: tokens without any network.

With pytest, in the ``conftest.py`` at the top::

    pytest_plugins = ["hubspot_identify.testing"]

provides the fixture ``hubspot`` for tests that are about the chat. It does not affect other tests::

    def test_chat_knows_the_user(client, django_user_model, hubspot):
        client.force_login(django_user_model.objects.create_user("ada", "ada@example.com"))
        assert hubspot.identity_of(client)["email"] == "ada@example.com"
        assert hubspot.identified == ["ada@example.com"]

Elsewhere, :func:`fake_hubspot` is a context manager and a decorator of test methods. So is :func:`no_hubspot`, which
makes every call to HubSpot an error. To do so in all tests of a pytest suite, add a line to pytest's settings::

    usefixtures = unmocked_hubspot_is_an_error

Everything but the network is real: settings, the gate, cache entries, circuit breaker, worker threads. The app uses a
cache of its own meanwhile, and no thread is left at the end of the block.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import requests
import urllib3
from django.apps import apps
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.urls import reverse
from requests.adapters import BaseAdapter

from ._hubspot import client as client_module
from ._tokens import store as store_module
from ._tokens.account import account_for, reset_accounts
from ._tokens.workers import reset_workers
from .conf import AccountSettings
from .exceptions import (
    AuthenticationError,
    CredentialError,
    HubSpotIdentifyError,
    InvalidRequestError,
    PermissionDeniedError,
    RateLimitError,
    TransportError,
    UnavailableError,
    UnexpectedResponseError,
)
from .logs import reset_log_throttle
from .visitors import Visitor

if TYPE_CHECKING:
    from django.test import Client

PATIENCE = 10.0  # seconds for background threads to end
KEY = "key-of-the-fake"

Answer = Callable[[requests.PreparedRequest], requests.Response]

#: The status and category with which HubSpot means each of its errors.
STATUSES: Mapping[type[HubSpotIdentifyError], tuple[int, str]] = {
    InvalidRequestError: (400, "VALIDATION_ERROR"),
    AuthenticationError: (401, "INVALID_AUTHENTICATION"),
    PermissionDeniedError: (403, "MISSING_SCOPES"),
    RateLimitError: (429, "RATE_LIMIT"),
    UnavailableError: (503, "UNAVAILABLE"),
}
FAILURES = (*STATUSES, CredentialError, TransportError, UnexpectedResponseError)


class UnmockedCallError(HubSpotIdentifyError, AssertionError):
    """A test had HubSpot asked for a token without saying that it would."""


class FakeHubSpot:
    """HubSpot, as far as a test sees it.

    Attributes:
        visitors: for whom tokens were made, in the order of the calls, with names and context.
        tokens: the e-mail address by token.
        calls: how many calls were made, those that failed included.
    """

    def __init__(self) -> None:
        self.visitors: list[Visitor] = []
        self.tokens: dict[str, str] = {}
        self.calls = 0
        self._failure: type[HubSpotIdentifyError] | int | None = None
        self._let_go = threading.Event()
        self._let_go.set()
        self._cache = _PrivateCaches()

    @property
    def identified(self) -> list[str]:
        """The e-mail addresses for which tokens were made, in the order of the calls."""
        return [visitor.email for visitor in self.visitors]

    def fail(self, failure: type[HubSpotIdentifyError] | int) -> None:
        """Let the calls from now on end in one of the errors, or in any HTTP status of 400 and above.

        Args:
            failure: one of :data:`FAILURES`, such as ``RateLimitError``, or a status, such as ``477``.
        """
        if not (failure in FAILURES or (isinstance(failure, int) and 400 <= failure < 600)):
            names = ", ".join(one.__name__ for one in FAILURES)
            raise TypeError(f"failure is {failure!r}: pass an HTTP status from 400 to 599, or one of {names}.")
        self._failure = failure

    def recover(self) -> None:
        """Be healthy again, with everything forgotten that keeps the app from calling: breaker, pauses, cache."""
        self._failure = None
        self.settle()
        self._cache.clear()
        reset_accounts()
        reset_log_throttle()

    def hold(self) -> None:
        """Let the calls from now on hang, until :meth:`release` or the end of the test."""
        self._let_go.clear()

    def release(self) -> None:
        """Answer the calls that hang."""
        self._let_go.set()

    def settle(self) -> None:
        """Wait for the background threads, so that every token that was asked for is there."""
        if self._let_go.is_set() and not join_threads(PATIENCE):
            raise AssertionError(f"A background thread did not end within {PATIENCE:.0f} s.")

    def identity_of(self, client: Client, account: str | None = None, **extra: Any) -> dict[str, Any] | None:
        """What the browser of Django's test client learns from the app's URL, asking again as our script does.

        Args:
            client: with the session of the user.
            account: a name from ``ACCOUNTS``.
            extra: for ``client.get()``, such as ``secure=True``.

        Returns:
            ``{"email": …, "token": …, "expires_in": …}``, or ``None`` for a visitor who stays unknown.

        Raises:
            ConfigurationError: a setting is missing or wrong, so the endpoint responded with status 503.
        """
        url = reverse("hubspot_identify:identity", kwargs={"account": account} if account else None)
        response = client.get(url, headers={"X-HubSpot-Identify": "1"}, **extra)
        if response.status_code == 202:
            self.settle()
            response = client.get(url, headers={"X-HubSpot-Identify": "1"}, **extra)
        if response.status_code == 503:
            account_for(response.wsgi_request, account)  # raises the error that the endpoint has only logged
        identity: dict[str, Any] | None = response.json()["identity"]
        return identity

    def _answer(self, request: requests.PreparedRequest) -> requests.Response:
        self.calls += 1
        failure = self._failure
        self._let_go.wait()
        if failure is CredentialError:
            raise CredentialError("The callable in HUBSPOT_IDENTIFY['API_KEY'] failed (in a test).")
        if failure is TransportError:
            raise requests.ConnectionError("The network failed (in a test).")
        if failure is UnexpectedResponseError:
            return _response(request, 200, b"<!doctype html>")
        if failure is not None:
            status = failure if isinstance(failure, int) else STATUSES[failure][0]
            category = dict(STATUSES.values()).get(status, "")
            body = {"status": "error", "category": category, "message": "A failure made by a test."}
            return _response(request, status, json.dumps(body).encode())
        return _response(request, 200, json.dumps({"token": self._token(json.loads(request.body or b"{}"))}).encode())

    def _token(self, body: Mapping[str, Any]) -> str:
        context = body.get("hsCustomerAgentContext", {})
        visitor = Visitor(body["email"], body.get("firstName", ""), body.get("lastName", ""), context)
        token = f"token-{len(self.tokens) + 1}-of-the-fake"
        self.tokens[token] = visitor.email
        self.visitors.append(visitor)
        return token


@contextmanager
def fake_hubspot(**overrides: Any) -> Iterator[FakeHubSpot]:
    """Stand in for HubSpot: make tokens without any network, and record for whom.

    The chat is switched on where ``ENABLED`` is ``False``, and has a key where there is none, so that a suite may
    have it switched off for all other tests. If the chat is switched on this way, or if there are no settings at all,
    a missing ``EMAIL_VERIFIED`` is ``True`` in these tests. Otherwise it raises an error, as on the site.

    Args:
        overrides: keys of ``HUBSPOT_IDENTIFY`` for these tests, such as ``DELIVERY="inline"``.
    """
    from django.test import override_settings  # which wants the settings to be there already

    fake = FakeHubSpot()
    with ExitStack() as stack:
        stack.enter_context(override_settings(HUBSPOT_IDENTIFY={**_usable_settings(), **overrides}))
        stack.enter_context(_instead_of_network(fake._answer, fake._cache))
        stack.callback(fake.release)
        yield fake


@contextmanager
def no_hubspot() -> Iterator[None]:
    """Make every call to HubSpot an error, be it on a background thread that nobody waits for.

    Raises:
        UnmockedCallError: in the call, and at the end of the block.
    """
    calls: list[str] = []

    def answer(request: requests.PreparedRequest) -> requests.Response:
        calls.append(str(request.url).partition("?")[0])
        raise UnmockedCallError(f"A test called {calls[-1]}.")

    with _instead_of_network(answer, _PrivateCaches()):
        yield
    if calls:
        raise UnmockedCallError(
            f"The test had HubSpot called ({calls[0]}): use fake_hubspot(), or the fixture hubspot, "
            "or switch the chat off with HUBSPOT_IDENTIFY['ENABLED'] = False."
        )


class _PrivateCaches:
    """All caches in one, which nobody else looks into; in the place of ``django.core.cache.caches``."""

    def __init__(self) -> None:
        self._cache = LocMemCache(f"hubspot_identify.testing {id(self)}", {"OPTIONS": {"MAX_ENTRIES": 100_000}})
        self.clear = self._cache.clear

    def __getitem__(self, alias: str) -> LocMemCache:
        return self._cache


class _Adapter(BaseAdapter):
    """Where requests would open a socket."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self._answer = answer

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        return self._answer(request)

    def close(self) -> None:
        pass


@contextmanager
def _instead_of_network(answer: Answer, caches: _PrivateCaches) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(caches.clear)
        stack.callback(_forget_process_state)
        stack.enter_context(mock.patch.object(client_module, "CallAdapter", return_value=_Adapter(answer)))
        stack.enter_context(mock.patch.object(store_module, "caches", caches))
        stack.callback(_join)
        _forget_process_state()
        yield


def join_threads(seconds: float) -> bool:
    """Wait until no worker thread of the app is left, and return whether none is left."""
    end = time.monotonic() + seconds
    while threads := [thread for thread in threading.enumerate() if thread.name.startswith("hubspot-identify")]:
        if time.monotonic() >= end:
            return False
        for thread in threads:
            if thread.ident is not None:  # otherwise it is just about to start
                thread.join(max(0.0, end - time.monotonic()))
    return True


def _join() -> None:
    if not join_threads(PATIENCE):
        raise AssertionError("A background thread of hubspot_identify outlived the test.")


def _forget_process_state() -> None:
    reset_workers()
    reset_accounts()
    reset_log_throttle()


def _usable_settings() -> dict[str, Any]:
    written = AccountSettings(getattr(settings, "HUBSPOT_IDENTIFY", None) or {})
    values = written.values
    if not values or values.get("ENABLED") is False:
        values["ENABLED"] = True
        if values.get("EMAIL_VERIFIED") is None and not apps.is_installed("allauth.account"):
            values["EMAIL_VERIFIED"] = True  # settings that disable the chat need not contain the decision
    values["API_KEY"] = values.get("API_KEY") or KEY
    values["ACCOUNTS"] = {
        name: {key: value for key, value in AccountSettings(values, name).own.items() if value or key != "API_KEY"}
        for name in written.parse("ACCOUNTS")
    }
    return values


def _response(request: requests.PreparedRequest, status: int, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.request = request
    response.url = str(request.url)
    response.raw = urllib3.HTTPResponse(io.BytesIO(body), status=status, preload_content=False)
    return response


try:
    import pytest
except ImportError:  # Django's own test runner does without
    pass
else:

    @pytest.fixture
    def hubspot() -> Iterator[FakeHubSpot]:
        """HubSpot without network; see :class:`FakeHubSpot`."""
        with fake_hubspot() as fake:
            yield fake

    @pytest.fixture
    def unmocked_hubspot_is_an_error() -> Iterator[None]:
        """Fail a test that calls HubSpot without the fixture ``hubspot``."""
        with no_hubspot():
            yield
