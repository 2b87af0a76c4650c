"""Values that no process inherits; real forks are in test_forks.py."""

from __future__ import annotations

import os

import pytest

from hubspot_identify.per_process import PerProcess


def test_one_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept as long as the process is the same, made anew once when it turns out to be another."""
    value: PerProcess[object] = PerProcess(object)
    of_parent = value.get()
    assert value.get() is of_parent
    monkeypatch.setattr(os, "getpid", lambda: -1)
    of_child = value.get()
    assert of_child is not of_parent
    assert value.get() is of_child


def test_renewed_on_request() -> None:
    """Tests begin anew without a fork."""
    value: PerProcess[object] = PerProcess(object)
    before = value.get()
    value.renew()
    assert value.get() is not before
