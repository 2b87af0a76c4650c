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

Settings, the gate, cache entries and circuit breaker are real. Each call is made at once in the thread that needs the
token, which is usually the test's own: tests do not have to wait, and libraries that freeze the clock or mock requests
do not interfere. Only calls that :meth:`FakeHubSpot.hold` blocks are made on worker threads, as on the site. During a
test, the app uses a cache of its own. No worker thread remains at the end.

For tests in a real browser, :func:`hubspot_sandbox` adds the sandbox to the site of a live server.
"""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any
from unittest import mock

import requests
import urllib3
from django.apps import apps
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connections
from django.urls import get_resolver, include, path, reverse
from django.utils.asyncio import async_unsafe
from requests.adapters import BaseAdapter

from . import identification as identification_module
from . import services as services_module
from ._hubspot import client as client_module
from ._hubspot.transport import CallSession
from ._tokens import fetch as fetch_module
from ._tokens import store as store_module
from ._tokens.account import Account, account_for, reset_accounts
from ._tokens.lookup import CacheLookup, read_cache_and_schedule
from ._tokens.workers import BUSY_NAME, Job, Workers
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

    from .sandbox.state import Sandbox

JOIN_TIMEOUT = 10.0  # seconds within which worker threads must finish their jobs
KEY = "key-of-the-fake"
PORTAL = "123"  # in the sandbox, if the settings have none
URLCONF = "hubspot_identify.testing.urls"

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
        """Let further calls block until :meth:`release` or the end of the test.

        They are made on worker threads, as on the site: requests wait for them only for ``PAGE_WAIT`` or ``wait``, and
        each call fails after ``TIMEOUT`` seconds. Libraries that freeze the clock might not freeze it on these threads.
        """
        self._may_respond.clear()

    def release(self) -> None:
        """Respond to the calls that block."""
        self._may_respond.set()

    def settle(self) -> None:
        """Wait for the calls that :meth:`release` has released, so that their tokens are in the cache."""
        if self._may_respond.is_set():
            _join()

    def identity_of(self, client: Client, account: str | None = None, **extra: Any) -> dict[str, Any] | None:
        """Return the identity that the app's URL sends to a test client, which repeats the request after a 202.

        Args:
            client: Django's test client, with the session of the user.
            account: a name from ``ACCOUNTS``.
            extra: further arguments of ``client.get()``, such as ``secure=True``.

        Returns:
            ``{"email": …, "token": …, "expires_in": …}``, or ``None`` for an anonymous visitor or a disabled chat.

        Raises:
            ConfigurationError: a setting is missing or wrong, so the endpoint responded with status 503.
        """
        url = reverse("hubspot_identify:identity", kwargs={"account": account} if account else None)
        response = client.get(url, headers={"X-HubSpot-Identify": "1"}, **extra)
        if response.status_code == 202:
            self.settle()
            response = client.get(url, headers={"X-HubSpot-Identify": "1"}, **extra)
        if response.status_code == 503:
            account_for(response.wsgi_request, account)  # raises the error if the account's settings caused it
        identity: dict[str, Any] | None = response.json().get("identity")
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
        stack.enter_context(_network_replaced(fake._respond, fake._cache, lambda: not fake._may_respond.is_set()))
        stack.callback(fake.release)
        yield fake


@contextmanager
def no_hubspot() -> Iterator[None]:
    """Make every call to HubSpot an error, including those in the background.

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
            f"The test called HubSpot ({calls[0]}). Use fake_hubspot() or the fixture hubspot, or "
            "hubspot_sandbox(live_server) for a real browser. To disable the chat, set HUBSPOT_IDENTIFY['ENABLED'] to "
            "False."
        )


@contextmanager
def hubspot_sandbox(live_server: object, **overrides: Any) -> Iterator[Sandbox]:
    """Add the sandbox to the site of a live server, for tests in a real browser. It need not be installed or routed.

    Within the block the sandbox is empty and healthy, pages load its chat, the app calls its token API as it calls
    HubSpot's, and ``DEBUG`` is ``True``, which the sandbox requires. Missing settings are replaced as they are by
    :func:`fake_hubspot`. Other fakes of this module do not apply within the block.

    Args:
        live_server: the fixture of pytest-django, or the ``live_server_url`` of Django's ``LiveServerTestCase``.
        overrides: keys of ``HUBSPOT_IDENTIFY`` within the block.
    """
    from django.test import override_settings  # as above

    from .sandbox.state import sandbox

    urlconf = ModuleType(URLCONF)
    patterns = [path("sandbox/", include("hubspot_identify.sandbox.urls")), *get_resolver().url_patterns]
    vars(urlconf).update(vars(get_resolver().urlconf_module), urlpatterns=patterns, __name__=URLCONF)
    values = _usable_settings()
    for account in (values, *values["ACCOUNTS"].values()):
        account["PORTAL_ID"] = account.get("PORTAL_ID") or values.get("PORTAL_ID") or PORTAL
        account["BASE_URL"] = f"{live_server}/sandbox/api"
        account["LOADER_URL"] = f"/sandbox/loader/{account['PORTAL_ID']}.js"
    with ExitStack() as stack:
        sys.modules[URLCONF] = urlconf
        stack.callback(sys.modules.pop, URLCONF)
        stack.enter_context(
            override_settings(DEBUG=True, ROOT_URLCONF=URLCONF, HUBSPOT_IDENTIFY={**values, **overrides})
        )
        stack.enter_context(_app_isolated(_PrivateCaches(), CallSession, Workers()))
        stack.callback(sandbox.reset)  # ends the calls that are waiting
        sandbox.reset()
        yield sandbox


class _PrivateCaches:
    """Replaces ``django.core.cache.caches``. All aliases are one cache, which only the app uses."""

    def __init__(self) -> None:
        self._cache = LocMemCache(f"hubspot_identify.testing {id(self)}", {"OPTIONS": {"MAX_ENTRIES": 100_000}})
        self.clear = self._cache.clear

    def __getitem__(self, alias: str) -> LocMemCache:
        return self._cache


class _Session(CallSession):
    """Responds instead of opening a socket. It does not call the methods that libraries that mock requests replace."""

    def __init__(self, adapter: BaseAdapter, respond: Responder) -> None:
        super().__init__(adapter)
        self._respond = respond

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        return self._respond(request)


class _CallersThread(Workers):
    """Runs each job at once in the thread that submits it, or on a worker thread if its call will block.

    A job that is still running on a worker thread is not run twice, because the second one would find it locked.
    """

    def __init__(self, will_block: Callable[[], bool]) -> None:
        super().__init__()
        self._will_block = will_block

    def submit(self, job: Job, *, may_take_last_slot: bool = True) -> Job | None:
        if self._will_block():
            return super().submit(job, may_take_last_slot=may_take_last_slot)
        if running := self.running(job):
            return running
        try:
            _database_is_usable()
        except SynchronousOnlyOperation:  # in an event loop, where the site's callables and receivers would fail
            with ThreadPoolExecutor(1) as pool:
                pool.submit(_run_and_disconnect, job).result()
        else:
            _run(job)
        return job


@async_unsafe("")
def _database_is_usable() -> None:
    pass


def _run(job: Job) -> None:
    job.started = True
    try:
        job.run(client_module.TokenClient())
    finally:
        job.finish()


def _run_and_disconnect(job: Job) -> None:
    try:
        _run(job)
    finally:
        connections.close_all()


def _read_after_fetch(visitor: Visitor, account: Account) -> CacheLookup:
    """Read the cache again if there was no token. The first read has made the call."""
    lookup = read_cache_and_schedule(visitor, account)
    return read_cache_and_schedule(visitor, account) if lookup.pending else lookup


@contextmanager
def _network_replaced(
    respond: Responder, caches: _PrivateCaches, will_block: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    with (
        _app_isolated(caches, lambda adapter: _Session(adapter, respond), _CallersThread(will_block)),
        mock.patch.object(services_module, "read_cache_and_schedule", _read_after_fetch),
        mock.patch.object(identification_module, "read_cache_and_schedule", _read_after_fetch),
    ):
        yield


@contextmanager
def _app_isolated(
    caches: _PrivateCaches, session: Callable[[BaseAdapter], CallSession], workers: Workers
) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(caches.clear)
        stack.callback(_forget_process_state)
        stack.callback(workers.end_idle_threads)
        stack.enter_context(mock.patch.object(client_module, "CallSession", session))
        stack.enter_context(mock.patch.object(fetch_module, "get_workers", return_value=workers))
        stack.enter_context(mock.patch.object(store_module, "caches", caches))
        stack.callback(_join)
        _forget_process_state()
        yield


def join_threads(seconds: float) -> bool:
    """Wait until no worker thread of the app is busy, for so many seconds, and return whether that is the case."""
    end = time.monotonic() + seconds
    while any(thread.name.startswith(BUSY_NAME) for thread in threading.enumerate()):
        if time.monotonic() >= end:
            return False
        time.sleep(0.002)
    return True


def _join() -> None:
    if not join_threads(JOIN_TIMEOUT):
        raise AssertionError(f"A worker thread of hubspot_identify is still busy after {JOIN_TIMEOUT:.0f} s.")


def _forget_process_state() -> None:
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
