"""The ways in which sites are run: real servers, real requests."""

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

TIMEOUT = 30.0
GUNICORN = ["gunicorn", "--workers", "2", "--graceful-timeout", "3", "support.deployed:application", "--bind"]
MODELS: dict[str, Callable[[int], list[str]]] = {
    "gunicorn sync": lambda port: [*GUNICORN, f"127.0.0.1:{port}"],
    "gunicorn gthread": lambda port: [*GUNICORN, f"127.0.0.1:{port}", "--threads", "4"],
    "gunicorn --preload": lambda port: [*GUNICORN, f"127.0.0.1:{port}", "--preload"],
    "uvicorn": lambda port: ["uvicorn", "support.deployed:asgi", "--port", str(port), "--lifespan", "off"],
}


@pytest.fixture
def deployable(cache_backend: CacheBackend, token_server: TokenServer, monkeypatch: pytest.MonkeyPatch) -> TokenServer:
    """HubSpot, and an environment for servers of a site that calls it."""
    settings = settings_of(cache_backend, BASE_URL=token_server.url, RATE_LIMIT=1000, TIMEOUT=TIMEOUT)
    monkeypatch.setenv("DEPLOYED_SETTINGS", json.dumps(settings))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return token_server


def ask(port: int, email: str) -> tuple[int, Any]:
    """What the endpoint says of a visitor: status and identity."""
    headers = {"X-HubSpot-Identify": "1", "X-User": email}
    answer = requests.get(f"http://127.0.0.1:{port}/hubspot/identity/", headers=headers, timeout=60)
    return answer.status_code, answer.json()["identity"]


def identify(port: int, email: str) -> str:
    """Ask as the browser does, until there is a token; the address that it was made for."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        status, identity = ask(port, email)
        if identity is not None:
            assert (status, identity["email"]) == (200, email)
            return email_of(identity["token"])
        assert status == 202
        time.sleep(0.1)  # as the browser does
    pytest.fail(f"{email} was never identified")


@pytest.mark.parametrize("cache_backend", ["redis"], indirect=True)
@pytest.mark.parametrize("model", MODELS)
def test_process_models(deployable: TokenServer, model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everybody is identified as themselves; with HubSpot hanging all answers come at once; and it stops in time."""
    if "preload" in model:
        monkeypatch.setenv("DEPLOYED_WARM", "1")
    visitors = [f"visitor{number}@example.com" for number in range(24)]
    with serving(lambda port: [sys.executable, "-m", *MODELS[model](port)], tmp_path / "log") as port:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(lambda email: identify(port, email), visitors)) == visitors
            deployable.set_scenario("drip_body")
            started = time.monotonic()
            answers = list(pool.map(lambda number: ask(port, f"late{number}@example.com"), range(24)))
            assert time.monotonic() - started < TIMEOUT  # had each waited for HubSpot, it were four times that
        assert all(answer in [(202, None), (200, None)] for answer in answers)
        assert deployable.wait_for_calls(len(visitors) + 1, TIMEOUT)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 15  # half of what HubSpot may take, after which it would be killed
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert "never ran" not in log
    assert "in trouble" not in log


@pytest.mark.parametrize("cache_backend", ["locmem"], indirect=True)
def test_runserver_reloads_while_a_call_hangs(deployable: TokenServer, tmp_path: Path) -> None:
    """A developer saves a file while HubSpot hangs: the new process is there as soon as ever, and works."""
    site = Path(shutil.copy(Path(__file__).parent / "support" / "deployed.py", tmp_path / "manage.py"))
    with serving(
        lambda port: [sys.executable, str(site), "runserver", f"127.0.0.1:{port}", "--nostatic", "--skip-checks"],
        tmp_path / "log",
    ) as port:

        def pid() -> str:
            try:
                return requests.get(f"http://127.0.0.1:{port}/pid/", timeout=5).text
            except requests.RequestException:
                return ""

        before = pid()
        deployable.set_scenario("drip_body")
        assert ask(port, "ada@example.com")[0] == 202
        assert deployable.wait_for_calls(1, TIMEOUT)
        until = time.monotonic() + 60
        while (now := pid()) in {before, ""} and time.monotonic() < until:
            if now:
                site.touch()
            time.sleep(0.2)  # the reloader has no event to offer; it looks once a second
        assert now not in {before, ""}
        deployable.set_scenario("healthy")
        assert identify(port, "ada@example.com") == "ada@example.com"
