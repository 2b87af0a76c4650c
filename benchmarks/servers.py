"""The programs beside this one: sites under gunicorn, caches, the stand-in for HubSpot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
sys.path.insert(0, str(TESTS))  # for the tests' stand-in

from support.server import TokenServer, TokenServerProcess  # noqa: E402

__all__ = ["Process", "TokenServer", "TokenServerProcess", "cache_settings", "child_environment", "serving"]

BACKENDS = "django.core.cache.backends."
MODELS = {
    "2 sync workers": ["--workers=2", "--worker-class=sync"],
    "2 x 2 threads": ["--workers=2", "--worker-class=gthread", "--threads=2"],
    "2 x 4 threads": ["--workers=2", "--worker-class=gthread", "--threads=4"],
}


def child_environment(**values: Any) -> dict[str, str]:
    """The environment of a child: ours, with our own packages and these values; what is no text becomes JSON."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {
        **os.environ,
        "PYTHONPATH": f"{HERE}{os.pathsep}{TESTS}",
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        **texts,
    }


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Process:
    """A server of ours on a port of its own, in a process group of its own."""

    def __init__(self, command: Callable[[int], list[str]], environment: dict[str, str] | None = None) -> None:
        self.port = free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process
        self._process = subprocess.Popen(
            command(self.port),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def wait(self, seconds: float = 30.0) -> None:
        """Until it listens."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        self.kill()
        self._log.seek(0)
        raise RuntimeError(f"{self._process.args[0]} did not start:\n{self._log.read().decode(errors='replace')}")

    def kill(self) -> None:
        """End it at once, hung workers included."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def serving(*processes: Process) -> Iterator[None]:
    """Wait until they listen, and end them after the block."""
    try:
        for process in processes:
            process.wait()
        yield
    finally:
        for process in processes:
            process.kill()


def gunicorn(model: str, way: str, hubspot: str, cache: dict[str, Any], **environment: str) -> Process:
    """The shop, with its chat done in one way."""
    environment = child_environment(
        BENCHMARK_WAY=way, BENCHMARK_HUBSPOT=hubspot, BENCHMARK_CACHES={"default": cache}, **environment
    )
    return Process(
        lambda port: [
            *(sys.executable, "-m", "gunicorn", "--preload", "--log-level=error", "--timeout=600"),
            *(f"--bind=127.0.0.1:{port}", *MODELS[model], "shop.wsgi"),
        ],
        environment,
    )


def cache_servers(directory: str) -> dict[str, Process]:
    """Redis and memcached, as far as they are installed."""
    processes = {}
    if redis := shutil.which("redis-server"):
        processes["Redis"] = Process(
            lambda port: [redis, f"--port {port}", "--bind 127.0.0.1", "--save", "", f"--dir {directory}"]
        )
    if memcached := shutil.which("memcached"):
        processes["memcached"] = Process(
            lambda port: [memcached, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-u", "nobody"]
        )
    return processes


def cache_settings(name: str, ports: dict[str, int], prefix: str = "") -> dict[str, Any]:
    """An entry of ``CACHES``."""
    made: dict[str, dict[str, Any]] = {
        "LocMem": {"BACKEND": BACKENDS + "locmem.LocMemCache", "LOCATION": "benchmark"},
        "Redis": {
            "BACKEND": BACKENDS + "redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{ports.get('Redis')}",
        },
        "memcached": {
            "BACKEND": BACKENDS + "memcached.PyMemcacheCache",
            "LOCATION": f"127.0.0.1:{ports.get('memcached')}",
        },
        "database": {"BACKEND": BACKENDS + "db.DatabaseCache", "LOCATION": "cache"},
    }
    return {**made[name], "KEY_PREFIX": prefix}
