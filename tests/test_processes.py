"""The ways in which sites are run: real servers and real requests."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from support.caches import CacheBackend
from support.hosts import settings_of
from support.programs import serving
from support.server import TokenServer, email_of

pytestmark = pytest.mark.slow

TIMEOUT = 30.0
VISITORS = 12
GUNICORN = ["gunicorn", "--workers", "2", "--graceful-timeout", "3", "support.deployed:application", "--bind"]
MODELS: dict[str, Callable[[int], list[str]]] = {
    "gunicorn gthread": lambda port: [*GUNICORN, f"127.0.0.1:{port}", "--threads", "4"],
    "gunicorn sync --preload": lambda port: [*GUNICORN, f"127.0.0.1:{port}", "--preload"],
    "uvicorn": lambda port: ["uvicorn", "support.deployed:asgi", "--port", str(port), "--lifespan", "off"],
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"app": {"format": "LOGGED BY %(name)s: %(message)s"}},
    "handlers": {"app": {"class": "logging.StreamHandler", "formatter": "app"}},
    "loggers": {"hubspot_identify": {"handlers": ["app"], "level": "WARNING"}},
}


@pytest.fixture
def site(cache_backend: CacheBackend, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """Set up the environment of servers for a site, and return the token endpoint that the site calls."""
    settings = settings_of(cache_backend, BASE_URL=token_server.url, RATE_LIMIT=1000, TIMEOUT=TIMEOUT)
    monkeypatch.setenv("DEPLOYED_SETTINGS", json.dumps({**settings, "LOGGING": LOGGING}))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return token_server


def request_identity(port: int, email: str) -> tuple[int, Any]:
    """Return the status and the identity in the endpoint's response for a logged-in user."""
    headers = {"X-HubSpot-Identify": "1", "X-User": email}
    response = requests.get(f"http://127.0.0.1:{port}/hubspot/identity/", headers=headers, timeout=60)
    return response.status_code, response.json()["identity"]


def identify(port: int, email: str) -> str:
    """Repeat the request as the browser does until there is a token, and return the address it was created for."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        status, identity = request_identity(port, email)
        if identity is not None:
            assert (status, identity["email"]) == (200, email)
            return email_of(identity["token"])
        assert status == 202
        time.sleep(0.1)  # as the browser does
    pytest.fail(f"{email} was never identified")


@pytest.mark.parametrize("cache_backend", ["redis"], indirect=True)
@pytest.mark.parametrize("model", MODELS)
def test_process_models(site: TokenServer, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each visitor gets their own identity. While HubSpot hangs, responses do not wait and the server stops in time.

    The app logs neither a warning nor an error.
    """
    if "preload" in model:
        monkeypatch.setenv("DEPLOYED_WARM", "1")
    visitors = [f"visitor{number}@example.com" for number in range(VISITORS)]
    with serving(lambda port: [sys.executable, "-m", *MODELS[model](port)], tmp_path / "log") as port:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda email: identify(port, email), visitors)) == visitors
            site.set_scenario("drip_body")
            started = time.monotonic()
            late = [f"late{number}@example.com" for number in range(VISITORS)]
            responses = list(pool.map(lambda email: request_identity(port, email), late))
            assert time.monotonic() - started < TIMEOUT  # any response that waited would take this long
        assert all(response in [(202, None), (200, None)] for response in responses)
        assert site.wait_for_calls(len(visitors) + 1, TIMEOUT)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < TIMEOUT / 2
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "LOGGED BY" not in log


@pytest.mark.parametrize("cache_backend", ["locmem"], indirect=True)
def test_runserver_reloads_while_a_call_hangs(site: TokenServer, tmp_path: Path) -> None:
    """If a developer saves a file while HubSpot hangs, a new process starts without delay and works."""
    program = Path(shutil.copy(Path(__file__).parent / "support" / "deployed.py", tmp_path / "manage.py"))
    with serving(
        lambda port: [sys.executable, str(program), "runserver", f"127.0.0.1:{port}", "--nostatic", "--skip-checks"],
        tmp_path / "log",
    ) as port:

        def process_id() -> str:
            try:
                return requests.get(f"http://127.0.0.1:{port}/pid/", timeout=5).text
            except requests.RequestException:
                return ""

        before = process_id()
        site.set_scenario("drip_body")
        assert request_identity(port, "ada@example.com")[0] == 202
        assert site.wait_for_calls(1, TIMEOUT)
        until = time.monotonic() + 60
        while (now := process_id()) in {before, ""} and time.monotonic() < until:
            if now:
                program.touch()
            time.sleep(0.2)  # the reloader looks once a second and announces nothing
        assert now not in {before, ""}
        site.set_scenario("healthy")
        assert identify(port, "ada@example.com") == "ada@example.com"
