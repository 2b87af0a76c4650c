"""The task of docs/clients.rst creates tokens in a real Celery worker with four processes, on Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.clocks import GENEROUS_TIMEOUT
from support.manual import code_blocks
from support.server import TokenServer

from hubspot_identify._tokens.rate_limit import WINDOW

pytestmark = pytest.mark.slow

USERS = 30
RATE_LIMIT = 2  # a second, so that the users need more than one window
SITE = """
SECRET_KEY = "only-for-tests"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "hubspot_identify"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{folder}/db.sqlite3"}}}}
CACHES = {{"default": {{"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "{redis}"}}}}
HUBSPOT_IDENTIFY = {{"API_KEY": "key", "BASE_URL": "{url}", "EMAIL_VERIFIED": True, "RATE_LIMIT": {limit}}}
"""
WORKER = """
import django
from celery import Celery

django.setup()
app = Celery("site", broker="{redis}", include=["tasks"], broker_connection_retry_on_startup=True)
"""
#: What a site runs in a shell or command: the users exist already, and each becomes a task.
SEND = """
import worker
from django.contrib.auth.models import User
from django.core.management import call_command
from tasks import fetch_chat_token_task

call_command("migrate", verbosity=0)
User.objects.bulk_create(User(username=name, email=f"{{name}}@example.com") for name in map(str, range({users})))
for key in User.objects.values_list("pk", flat=True):
    fetch_chat_token_task.delay(key)
"""
COUNT = """
import worker
from django.contrib.auth.models import User
from hubspot_identify import services
from hubspot_identify.visitors import user_visitor

tokens = [services.get_token(user_visitor(user, None)) for user in User.objects.all()]
print(sum(token is not None for token in tokens))
"""


@pytest.fixture
def run(tmp_path: Path, token_server: TokenServer, redis_url: str) -> Callable[..., Any]:
    """Start a command in the folder of a site that has the modules of the manual."""
    values = {"folder": tmp_path, "redis": redis_url, "url": token_server.url, "limit": RATE_LIMIT}
    (tmp_path / "site_settings.py").write_text(SITE.format(**values))
    (tmp_path / "worker.py").write_text(WORKER.format(**values))
    for name in ("chat_tokens.py", "tasks.py"):
        (code,) = [block for block in code_blocks("docs/clients") if block.startswith(f"# {name}")]
        (tmp_path / name).write_text(code)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "site_settings", "PYTHONPATH": path}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-Wignore", *arguments],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


def output_of(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=GENEROUS_TIMEOUT)
    assert process.returncode == 0, output
    return output


@pytest.fixture
def worker(run: Callable[..., subprocess.Popen[str]]) -> Iterator[subprocess.Popen[str]]:
    process = run("-m", "celery", "-A", "worker", "worker", "--pool=prefork", "--concurrency=4", "--loglevel=warning")
    yield process
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=GENEROUS_TIMEOUT)


def test_each_user_gets_a_token_within_the_rate_limit(
    run: Callable[..., subprocess.Popen[str]], worker: subprocess.Popen[str], token_server: TokenServer
) -> None:
    """All processes of the worker together keep the limit. Every user has a token afterwards, created by one call."""
    output_of(run("-c", SEND.format(users=USERS)))
    assert token_server.wait_for_calls(USERS, timeout=2 * GENEROUS_TIMEOUT)
    tokens = 0
    while tokens < USERS:  # the last response may not be in the cache yet
        assert worker.poll() is None
        tokens = int(output_of(run("-c", COUNT)))
    calls = sorted(request.at for request in token_server.requests())
    assert len(calls) == USERS
    for first, later in zip(calls, calls[RATE_LIMIT * (WINDOW + 1) :], strict=False):
        assert later - first > WINDOW - 1  # a call counts when it begins, and reaches HubSpot later
