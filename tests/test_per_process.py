"""Values that a forked child does not inherit; test_forks.py forks for real."""

from __future__ import annotations

import os

import pytest

from hubspot_identify._tokens.per_process import PerProcess


def test_value_is_created_once_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replaced on request, and once when the process id is another one."""
    value: PerProcess[object] = PerProcess(object)
    first = value.get()
    assert value.get() is first
    value.renew()
    of_parent = value.get()
    assert of_parent is not first
    monkeypatch.setattr(os, "getpid", lambda: -1)
    of_child = value.get()
    assert of_child is not of_parent
    assert value.get() is of_child
