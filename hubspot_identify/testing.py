"""A fake HubSpot for the test suites of sites: it creates tokens without any network.

For pytest, add a line to the ``conftest.py`` in the root directory::

    pytest_plugins = ["hubspot_identify.testing"]

It provides the fixture ``hubspot`` for tests of the chat, and does not affect other tests::

    def test_chat_knows_the_user(client, django_user_model, hubspot):
        client.force_login(django_user_model.objects.create_user("ada", "ada@example.com"))
        assert hubspot.identity_of(client)["email"] == "ada@example.com"
        assert hubspot.identified == ["ada@example.com"]

Without pytest, use :func:`fake_hubspot` as a context manager or as a decorator of test methods. :func:`no_hubspot` is
used in the same way, and makes every call to HubSpot an error. To do this in all tests of a pytest suite, add a line to
pytest's settings::

    usefixtures = unmocked_hubspot_is_an_error

Everything except the network is real: settings, the gate, cache entries, circuit breaker and worker threads. During a
test, the app uses a cache of its own. No worker thread remains at the end.
"""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
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

JOIN_TIMEOUT = 10.0  # seconds within which worker threads must end
KEY = "key-of-the-fake"

Responder = Callable[[requests.PreparedRequest], requests.Response]

#: The status and category of HubSpot's response for each exception.
STATUSES: Mapping[type[HubSpotIdentifyError], tuple[int, str]] = {
    InvalidRequestError: (400, "VALIDATION_ERROR"),
    AuthenticationError: (401, "INVALID_AUTHENTICATION"),
    PermissionDeniedError: (403, "MISSING_SCOPES"),
    RateLimitError: (429, "RATE_LIMIT"),
    UnavailableError: (503, "UNAVAILABLE"),
}
FAILURES = (*STATUSES, CredentialError, TransportError, UnexpectedResponseError)


class UnmockedCallError(HubSpotIdentifyError, AssertionError):
    """A test called HubSpot without :func:`fake_hubspot`."""


class FakeHubSpot:
    """The fake HubSpot of a test, which records the calls.

    Attributes:
        visitors: the visitors for whom it created tokens, in the order of the calls, with names and context.
        tokens: their e-mail addresses by token.
        calls: the number of calls, including those that failed.
    """

    def __init__(self) -> None:
        self.visitors: list[Visitor] = []
        self.tokens: dict[str, str] = {}
        self.calls = 0
        self._failure: type[HubSpotIdentifyError] | int | None = None
        self._may_respond = threading.Event()
        self._may_respond.set()
        self._cache = _PrivateCaches()

    @property
    def identified(self) -> list[str]:
        """The e-mail addresses for which it created tokens, in the order of the calls."""
        return [visitor.email for visitor in self.visitors]

    def fail(self, failure: type[HubSpotIdentifyError] | int) -> None:
        """Let further calls fail with an exception, or with any HTTP status from 400 on.

        Args:
            failure: one of :data:`FAILURES`, such as ``RateLimitError``, or a status, such as ``477``.
        """
        if not (failure in FAILURES or (isinstance(failure, int) and 400 <= failure < 600)):
            names = ", ".join(each.__name__ for each in FAILURES)
            raise TypeError(f"failure must be an HTTP status from 400 to 599, or one of {names}; not {failure!r}.")
        self._failure = failure

    def recover(self) -> None:
        """Let further calls succeed, and clear the cache and the circuit breaker, so that the app calls again."""
        self._failure = None
        self.settle()
        self._cache.clear()
        reset_accounts()
        reset_log_throttle()

    def hold(self) -> None:
        """Let further calls block until :meth:`release` or the end of the test."""
        self._may_respond.clear()

    def release(self) -> None:
        """Respond to the calls that block."""
        self._may_respond.set()

    def settle(self) -> None:
        """Wait for the worker threads, so that each token that is being fetched is in the cache."""
        if self._may_respond.is_set():
            _join()

    def identity_of(self, client: Client, account: str | None = None, **extra: Any) -> dict[str, Any] | None:
        """Return the identity that the app's URL sends to a test client, which repeats the request after a 202.

        Args:
            client: Django's test client, with the session of the user.
            account: a name from ``ACCOUNTS``.
            extra: further arguments of ``client.get()``, such as ``secure=True``.

        Returns:
            ``{"email": …, "token": …, "expires_in": …}``, or ``None`` for an anonymous visitor.

        Raises:
            ConfigurationError: a setting is missing or wrong, so the endpoint responded with status 503.
        """
        url = reverse("hubspot_identify:identity", kwargs={"account": account} if account else None)
        response = client.get(url, headers={"X-HubSpot-Identify": "1"}, **extra)
        if response.status_code == 202:
            self.settle()
            response = client.get(url, headers={"X-HubSpot-Identify": "1"}, **extra)
        if response.status_code == 503:
            account_for(response.wsgi_request, account)  # raises the error that the endpoint has logged
        identity: dict[str, Any] | None = response.json()["identity"]
        return identity

    def _respond(self, request: requests.PreparedRequest) -> requests.Response:
        self.calls += 1
        failure = self._failure
        self._may_respond.wait()
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
    """Replace the network by a fake HubSpot, which creates tokens and records the visitors.

    A suite may disable the chat in all other tests: within the block, ``ENABLED`` is ``True`` if it is ``False`` in the
    settings, and a missing ``API_KEY`` is replaced. If the chat is disabled in the settings, or if there are no
    settings, a missing ``EMAIL_VERIFIED`` is replaced by ``True``. Otherwise it is an error, as on the site.

    Args:
        overrides: keys of ``HUBSPOT_IDENTIFY`` within the block, such as ``DELIVERY="inline"``.
    """
    from django.test import override_settings  # the import needs Django's settings

    fake = FakeHubSpot()
    with ExitStack() as stack:
        stack.enter_context(override_settings(HUBSPOT_IDENTIFY={**_usable_settings(), **overrides}))
        stack.enter_context(_network_replaced(fake._respond, fake._cache))
        stack.callback(fake.release)
        yield fake


@contextmanager
def no_hubspot() -> Iterator[None]:
    """Make every call to HubSpot an error, including those on worker threads.

    Raises:
        UnmockedCallError: in the call, and at the end of the block.
    """
    calls: list[str] = []

    def respond(request: requests.PreparedRequest) -> requests.Response:
        calls.append(str(request.url).partition("?")[0])
        raise UnmockedCallError(f"A test called {calls[-1]}.")

    with _network_replaced(respond, _PrivateCaches()):
        yield
    if calls:
        raise UnmockedCallError(
            f"The test called HubSpot ({calls[0]}). Use fake_hubspot() or the fixture hubspot, or disable the chat "
            "with HUBSPOT_IDENTIFY['ENABLED'] = False."
        )


class _PrivateCaches:
    """Replaces ``django.core.cache.caches``. All aliases are one cache, which only the app uses."""

    def __init__(self) -> None:
        self._cache = LocMemCache(f"hubspot_identify.testing {id(self)}", {"OPTIONS": {"MAX_ENTRIES": 100_000}})
        self.clear = self._cache.clear

    def __getitem__(self, alias: str) -> LocMemCache:
        return self._cache


class _Adapter(BaseAdapter):
    """Responds where requests would open a socket."""

    def __init__(self, respond: Responder) -> None:
        super().__init__()
        self._respond = respond

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        return self._respond(request)

    def close(self) -> None:
        pass


@contextmanager
def _network_replaced(respond: Responder, caches: _PrivateCaches) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(caches.clear)
        stack.callback(_forget_process_state)
        stack.enter_context(mock.patch.object(client_module, "CallAdapter", return_value=_Adapter(respond)))
        stack.enter_context(mock.patch.object(store_module, "caches", caches))
        stack.callback(_join)
        _forget_process_state()
        yield


def join_threads(seconds: float) -> bool:
    """Wait until no worker thread of the app runs, for so many seconds, and return whether that is the case."""
    end = time.monotonic() + seconds
    while threads := [thread for thread in threading.enumerate() if thread.name.startswith("hubspot-identify")]:
        if time.monotonic() >= end:
            return False
        for thread in threads:
            with suppress(RuntimeError):  # it is just about to start
                thread.join(max(0.0, end - time.monotonic()))
    return True


def _join() -> None:
    if not join_threads(JOIN_TIMEOUT):
        raise AssertionError(f"A worker thread of hubspot_identify did not end within {JOIN_TIMEOUT:.0f} s.")


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
except ImportError:  # Django's test runner does not need it
    pass
else:

    @pytest.fixture
    def hubspot() -> Iterator[FakeHubSpot]:
        """Provide a :class:`FakeHubSpot`."""
        with fake_hubspot() as fake:
            yield fake

    @pytest.fixture
    def unmocked_hubspot_is_an_error() -> Iterator[None]:
        """Fail a test that calls HubSpot without the fixture ``hubspot``."""
        with no_hubspot():
            yield
