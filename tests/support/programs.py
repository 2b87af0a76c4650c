"""Programs that some tests need beside Python: found, started on a free port, and ended again."""

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
    """The path of the first of these that is installed; without one, :func:`lacking`."""
    for program in programs:
        if (path := shutil.which(program)) is not None:
            return path
    return lacking(f"{' or '.join(programs)} is not installed")


def lacking(reason: str) -> NoReturn:
    """Skip the test with this reason; where ``CI=true`` promises that all is installed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, though CI=true", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def serving(command: Callable[[int], list[str]], log: Path) -> Iterator[int]:
    """Run the program that ``command(port)`` describes until the block ends, and yield its port."""
    for _ in range(3):  # somebody else may take the port between our look and the program's
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
            except subprocess.TimeoutExpired:  # pragma: no cover - none of them does
                process.kill()
                process.wait()
    pytest.fail(f"{command(0)[0]} did not start:\n{log.read_text(errors='replace')}", pytrace=False)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                time.sleep(0.05)  # in which it would find that the port is somebody else's
                return process.poll() is None
        time.sleep(0.01)  # the program has no event to offer
    return False


def modules_after(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after a program."""
    end = "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-P", "-W", "error", "-c", program + end]
    return set(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
