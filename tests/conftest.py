"""Fixtures of the whole suite: a fake token API, cache servers, and what keeps the tests independent of each other."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings as django_settings
from django.core.cache import caches
from django.core.management import call_command
from django.db import connections
from pytest_django import DjangoDbBlocker, Settings
from support.caches import BACKENDS, CLASSES, DATABASE_ALIAS, CacheBackend
from support.certificates import Certificate, new_certificate
from support.faulty_cache import FaultyCache
from support.network import loopback_only
from support.programs import require, serving
from support.server import TokenServer, TokenServerProcess

from hubspot_identify._hubspot import client
from hubspot_identify._tokens import store
from hubspot_identify._tokens.account import reset_accounts
from hubspot_identify._tokens.workers import reset_workers
from hubspot_identify.logs import reset_log_throttle
from hubspot_identify.testing import join_threads

# On a busy machine an example can take any time, and no property that is tested here is about time.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def stay_on_this_machine() -> Iterator[None]:
    """A connection to another machine fails the test, even if the code under test catches the exception."""
    with loopback_only() as attempts:
        yield
    if attempts:
        pytest.fail(f"The test tried to reach {', '.join(sorted(set(attempts)))}.", pytrace=False)


@pytest.fixture(autouse=True)
def tolerate_slow_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow the cache more than a second, because the machine may be busy. Tests of slow caches undo this."""
    monkeypatch.setattr(store, "SLOW", 30.0)


@pytest.fixture(autouse=True)
def fresh_process_state() -> Iterator[None]:
    """Reset the app's state in this process and the cache after each test, when no worker thread may be busy."""
    yield
    # The servers of the test have been closed, so no thread waits for them any more.
    try:
        if not join_threads(30):
            pytest.fail("A worker thread is still busy after the test.", pytrace=False)
    finally:
        reset_workers()
        reset_accounts()
        reset_log_throttle()
        caches["default"].clear()


@pytest.fixture(scope="session")
def token_server_process() -> Iterator[TokenServerProcess]:
    with TokenServerProcess() as process:
        yield process


@pytest.fixture
def token_server(token_server_process: TokenServerProcess) -> Iterator[TokenServer]:
    """A fake of HubSpot's token API on a port of its own. It is healthy unless the test changes its scenario."""
    server = token_server_process.open()
    yield server
    server.close()


@pytest.fixture
def hubspot(token_server: TokenServer, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """The token server, which the app is configured to call. The read timeout is long, for busy machines."""
    monkeypatch.setattr(client, "READ_TIMEOUT", 30.0)
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}
    return token_server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for the servers of the tests, and the authority that issued it."""
    return new_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server for the tests of this process."""
    program = require("redis-server")
    folder = tmp_path_factory.mktemp("redis")
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with serving(lambda port: [program, "--port", str(port), *options], folder / "log") as port:
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def memcached_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A memcached server for the tests of this process."""
    program = require("memcached")
    options = ["-l", "127.0.0.1", "-U", "0", *(["-u", "root"] if os.geteuid() == 0 else [])]
    log = tmp_path_factory.mktemp("memcached") / "log"
    with serving(lambda port: [program, "-p", str(port), *options], log) as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def faulty_cache(settings: Settings) -> Iterator[type[FaultyCache]]:
    """The default cache, empty. It records its operations, and the test can make them fail."""
    settings.CACHES = {"default": {"BACKEND": "support.faulty_cache.FaultyCache", "LOCATION": uuid.uuid4().hex}}
    FaultyCache.reset()
    yield FaultyCache
    FaultyCache.reset()


@pytest.fixture(params=BACKENDS)
def cache_backend(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[CacheBackend]:
    """The default cache on each back end in turn, empty and with space for all entries.

    For some of the back ends: ``@pytest.mark.parametrize("cache_backend", SHARED_BACKENDS, indirect=True)``.
    """
    name: str = request.param
    own = {"KEY_PREFIX": uuid.uuid4().hex}
    many = {"OPTIONS": {"MAX_ENTRIES": 100_000}}
    choices: dict[str, Callable[[], dict[str, Any]]] = {
        "locmem": lambda: {"LOCATION": uuid.uuid4().hex, **many},
        "redis": lambda: {"LOCATION": request.getfixturevalue("redis_url"), **own},
        "memcached": lambda: {"LOCATION": request.getfixturevalue("memcached_address"), **own},
        "database": lambda: {"LOCATION": "hubspot_identify_cache", **many},
        "file": lambda: {"LOCATION": str(tmp_path / "cache"), **many},
    }
    options = {"BACKEND": f"django.core.cache.backends.{CLASSES[name]}", **choices[name]()}
    databases = request.getfixturevalue("cache_database") if name == "database" else {}
    backend = CacheBackend(name, {"default": options}, databases)
    for setting, value in backend.settings.items():
        setattr(settings, setting, value)
    if databases:
        call_command("createcachetable", database=DATABASE_ALIAS, verbosity=0)
    yield backend
    caches["default"].close()


@pytest.fixture
def cache_database(
    monkeypatch: pytest.MonkeyPatch, django_db_blocker: DjangoDbBlocker, tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """A SQLite file for the cache alone, which threads and processes share."""
    database = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "cache.sqlite3"),
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
    }
    complete = connections.configure_settings({**django_settings.DATABASES, DATABASE_ALIAS: dict(database)})
    monkeypatch.setitem(connections.settings, DATABASE_ALIAS, complete[DATABASE_ALIAS])
    with django_db_blocker.unblock():
        yield {DATABASE_ALIAS: database}
        connections[DATABASE_ALIAS].close()
    del connections[DATABASE_ALIAS]
