"""Find, start and stop the programs other than Python that some tests need."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest


def require(*programs: str) -> str:
    """Return the path of the first of these programs that is installed. Without any, the test is :func:`lacking`."""
    for program in programs:
        if (path := shutil.which(program)) is not None:
            return path
    return lacking(f"{' or '.join(programs)} is not installed")


def lacking(reason: str) -> NoReturn:
    """Skip the test for this reason. With ``CI=true``, where everything must be installed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, though CI=true", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """Return a port that is not in use."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(command: Callable[[int], list[str]], log: Path) -> Iterator[int]:
    """Run the program with the command line ``command(port)`` until the block ends, and yield its port."""
    for _ in range(3):  # another program may take the port first
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(command(port), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            if _listens(process, port):
                yield port
                return
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:  # pragma: no cover - all of them terminate
                process.kill()
                process.wait()
    pytest.fail(f"{command(0)[0]} did not start:\n{log.read_text(errors='replace')}", pytrace=False)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(0.05)  # a program whose port is already in use would end in this time
                return process.poll() is None
        time.sleep(0.01)  # there is no event to wait for
    return False


def modules_after(program: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after it ran a program."""
    end = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-P", "-W", "error", "-c", program + end]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
