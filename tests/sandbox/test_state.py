"""The state of the sandbox: tokens, rate limits, contacts and conversations."""

from __future__ import annotations

import re

import pytest

from hubspot_identify.sandbox import state
from hubspot_identify.sandbox.state import RATE_LIMIT, RATE_WINDOW, TOKEN_LIFETIME, Sandbox
from hubspot_identify.visitors import TOKEN


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sandbox(clock: Clock) -> Sandbox:
    return Sandbox(clock)


def test_each_token_is_new_and_safe_in_a_url(sandbox: Sandbox) -> None:
    """Like HubSpot's tokens, those of the sandbox need no encoding in a URL."""
    tokens = {sandbox.issue("ada@example.com") for _ in range(20)}
    assert len(tokens) == 20
    assert all(re.fullmatch(TOKEN, token) for token in tokens)


def test_token_identifies_only_its_address_for_twelve_hours(sandbox: Sandbox, clock: Clock) -> None:
    """A token with another address, a changed token and an expired token identify no contact."""
    token = sandbox.issue("ada@example.com", "Ada", "Lovelace")
    contact = sandbox.contact_for("Ada@Example.com", token)
    assert contact is not None
    assert (contact.email, contact.name) == ("ada@example.com", "Ada Lovelace")
    assert sandbox.contact_for("grace@example.com", token) is None
    assert sandbox.contact_for("ada@example.com", token + "x") is None
    clock.now += TOKEN_LIFETIME - 1
    assert sandbox.contact_for("ada@example.com", token) is not None
    clock.now += 1
    assert sandbox.contact_for("ada@example.com", token) is None


def test_token_of_another_process_is_logged_without_the_token(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Processes do not share the sandbox's tokens. This is logged once, and other invalid tokens are not logged."""
    token = Sandbox(clock).issue("ada@example.com")
    here = Sandbox(clock)
    here.contact_for("ada@example.com", "invalid")
    here.contact_for("ada@example.com", "")
    assert caplog.records == []
    for _ in range(2):
        assert here.contact_for("ada@example.com", token) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "process" in record.getMessage()
    assert token not in record.getMessage()


def test_rate_limit_is_a_rolling_window_for_each_credential(sandbox: Sandbox, clock: Clock) -> None:
    """190 calls are allowed in any ten seconds."""
    assert [sandbox.remaining("key") for _ in range(RATE_LIMIT)] == list(reversed(range(RATE_LIMIT)))
    clock.now += RATE_WINDOW - 0.1
    assert sandbox.remaining("key") is None
    assert sandbox.remaining("another key") == RATE_LIMIT - 1
    clock.now += 0.1
    assert sandbox.remaining("key") == RATE_LIMIT - 1
    clock.now += RATE_WINDOW / 2
    assert sandbox.remaining("key") == RATE_LIMIT - 2
    clock.now += RATE_WINDOW / 2
    assert sandbox.remaining("key") == RATE_LIMIT - 2


def test_anonymous_conversation_belongs_to_the_cookie(sandbox: Sandbox) -> None:
    """Every visitor with the browser's cookie sees its anonymous conversation."""
    sandbox.add_message("my card number is", utk="cookie")
    seen = sandbox.thread("", "", "cookie")
    assert seen is not None
    assert seen.messages == ["my card number is"]
    assert sandbox.thread("", "", "another") is None


def test_conversation_of_a_contact_belongs_to_the_address(sandbox: Sandbox) -> None:
    """A contact has the same conversation in every browser."""
    sandbox.add_message("first", email="ada@example.com", token=sandbox.issue("ada@example.com"), utk="home")
    thread = sandbox.add_message(
        "second", email="ada@example.com", token=sandbox.issue("ada@example.com"), utk="office"
    )
    assert thread.messages == ["first", "second"]
    assert len(sandbox.threads()) == 1


def test_anonymous_conversation_is_linked_to_the_contact_with_a_valid_token(sandbox: Sandbox) -> None:
    """An invalid token does not link the conversation of the browser."""
    anonymous = sandbox.add_message("who am I?", utk="cookie")
    sandbox.link_to_contact("ada@example.com", "invalid", "cookie")
    assert anonymous.contact is None
    token = sandbox.issue("ada@example.com", "Ada")
    sandbox.link_to_contact("ada@example.com", token, "cookie")
    thread = sandbox.thread("ada@example.com", token, "")
    assert thread is not None
    assert thread.contact is not None
    assert (thread.contact.name, thread.messages) == ("Ada", ["who am I?"])


def test_existing_names_of_a_contact_are_kept(sandbox: Sandbox) -> None:
    """Only missing names are set when a chat starts."""
    sandbox.add_message("one", email="ada@example.com", token=sandbox.issue("ada@example.com"))
    sandbox.add_message("two", email="ada@example.com", token=sandbox.issue("ada@example.com", "Ada"))
    sandbox.add_message("three", email="ada@example.com", token=sandbox.issue("ada@example.com", "Augusta", "King"))
    (thread,) = sandbox.threads()
    assert thread.contact is not None
    assert thread.contact.name == "Ada King"


def test_address_without_a_valid_token_is_only_a_claim(sandbox: Sandbox) -> None:
    """The conversation keeps the claimed address and has no contact."""
    thread = sandbox.add_message("let me in", email="ada@example.com", token="invalid", utk="cookie")
    assert (thread.contact, thread.claimed) == (None, "ada@example.com")


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in {"MAX_TOKENS": 3, "MAX_CONTACTS": 3, "MAX_THREADS": 3, "MAX_TEXT": 10}.items():
        monkeypatch.setattr(state, name, limit)


@pytest.mark.usefixtures("small_limits")
def test_memory_is_bounded(clock: Clock) -> None:
    """Beyond the limits the oldest token, contact and conversation are removed, and texts are truncated."""
    sandbox = Sandbox(clock)
    tokens = {f"{n}@x.test": sandbox.issue(f"{n}@x.test", "Name" * 10) for n in range(5)}
    assert [sandbox.contact_for(email, token) is not None for email, token in tokens.items()] == [False] * 2 + [
        True
    ] * 3
    for n in range(5):
        sandbox.add_message("Message" * 10, utk=str(n), page="/page/" * 10)
    threads = sandbox.threads()
    assert [(thread.id, thread.utk) for thread in threads] == [(5, "4"), (4, "3"), (3, "2")]
    assert {(len(thread.messages[0]), len(thread.page)) for thread in threads} == {(10, 10)}
    for email, token in list(tokens.items())[2:]:
        sandbox.add_message("Hello", email=email, token=token)
        contact = sandbox.contact_for(email, token)
        assert contact is not None
        assert len(contact.first_name) == 10


def test_number_of_messages_is_bounded(sandbox: Sandbox) -> None:
    """A conversation keeps its last messages."""
    for n in range(state.MAX_MESSAGES + 5):
        thread = sandbox.add_message(str(n), utk="one")
    assert list(thread.messages) == [str(n) for n in range(5, state.MAX_MESSAGES + 5)]


def test_number_of_contacts_is_bounded(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest contact is removed. A token that was issued for it still identifies it."""
    monkeypatch.setattr(state, "MAX_CONTACTS", 1)
    for name in ("Ada", "Grace"):
        sandbox.add_message("Hello", email=f"{name}@x.test", token=sandbox.issue(f"{name}@x.test", name))
    renamed = {
        name: sandbox.contact_for(f"{name}@x.test", sandbox.issue(f"{name}@x.test", "Eve")) for name in ("Ada", "Grace")
    }
    assert [contact and contact.first_name for contact in renamed.values()] == ["Eve", "Grace"]


def test_windows_of_old_credentials_are_removed(sandbox: Sandbox, clock: Clock) -> None:
    """Credentials without recent calls use no memory."""
    for n in range(100):
        sandbox.remaining(f"key {n}")
    clock.now += RATE_WINDOW
    sandbox.remaining("key")
    assert len(sandbox._windows) == 1
