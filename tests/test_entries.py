"""What the cache holds for a token, under which key, and how tokens age."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

from django.core.cache import cache
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pytest_django import Settings
from support.accounts import new_account

from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.entries import (
    CHANGE_AFTER,
    CLOCK_SKEW,
    EXPIRE_AFTER,
    FAILURE_RECORD,
    HOUR,
    NO_ENTRY,
    OWNER_LENGTH,
    RENEW_AFTER,
    RENEW_SPREAD,
    Entry,
    KeyedDigest,
    VisitorToken,
    decode_entry,
    renewal_age,
)
from hubspot_identify.visitors import Visitor

NOW = 1_800_000_000.0
ADA = Visitor("ada@example.com", "Ada", "Lovelace")
KEY = "hubspot_identify:1:" + "0123456789abcdef" * 4


def new_entry(age: float = 0.0, **changes: Any) -> Entry:
    """Return Ada's entry with a token of a certain age in seconds."""
    values = {"token": "token", "created_at": NOW - age, "retry_at": 0.0, "profile": get_account().profile(ADA)}
    return Entry(**{**values, **changes})


# The entry


def test_failure_recorded_by_a_clock_ahead_discards_no_token() -> None:
    """The clock of the other host affects only the record of the failure, never the token."""
    entry = decode_entry(new_entry(failed_at=NOW + 3600, retry_at=NOW + 10).as_primitives(KEY), KEY, NOW)
    assert (entry.token, entry.failed_at) == ("token", NOW)


def test_entry_is_read_back_as_it_was_stored() -> None:
    """This holds for a cache of Django's and for JSON."""
    entry = new_entry(60, retry_at=NOW + 10)
    cache.set("key", entry.as_primitives(KEY))
    assert decode_entry(cache.get("key"), KEY, NOW) == entry
    assert decode_entry(json.loads(json.dumps(entry.as_primitives(KEY))), KEY, NOW) == entry


def test_entry_is_stored_as_primitives() -> None:
    """No class of the app is stored, so that other versions of the app can read or ignore the entry."""
    stored = new_entry().as_primitives(KEY)
    assert set(stored) == {"owner", "token", "created_at", "retry_at", "profile", "failed_at"}
    assert {type(value) for value in stored.values()} == {str, float}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
OWNED = {"owner": KEY[-OWNER_LENGTH:]}
HUGE = 10**400
NUMBERS = st.integers() | st.floats() | st.floats(NOW - EXPIRE_AFTER, NOW + EXPIRE_AFTER) | st.sampled_from([10**400])
NEARLY_ENTRIES = st.fixed_dictionaries(
    {
        "owner": ANYTHING | st.just(KEY[-OWNER_LENGTH:]),
        "token": ANYTHING | st.from_regex(r"[A-Za-z0-9._~=/-]{1,40}", fullmatch=True),
        "created_at": ANYTHING | NUMBERS,
        "retry_at": ANYTHING | NUMBERS,
        "profile": ANYTHING | st.just(get_account().profile(ADA)),
        "failed_at": ANYTHING | NUMBERS,
    }
)


@settings(max_examples=60)
@given(ANYTHING | NEARLY_ENTRIES)
@example({**OWNED, "token": None, "created_at": 0.0, "retry_at": NOW + 1, "profile": "", "failed_at": NOW})
@example({**OWNED, "token": None, "created_at": 0.0, "retry_at": NOW - 1, "profile": "", "failed_at": NOW - 9})
@example({**OWNED, "token": "token", "created_at": NOW, "retry_at": 0, "profile": "", "failed_at": 10**400})
@example({**OWNED, "token": "token", "created_at": 10**400, "retry_at": 0, "profile": "", "failed_at": 0})
@example({**OWNED, "token": "token", "created_at": NOW, "retry_at": -HUGE, "profile": "", "failed_at": -HUGE})
@example(
    {**OWNED, "token": "token", "created_at": math.nan, "retry_at": math.nan, "profile": "", "failed_at": math.nan}
)
def test_any_cached_value_is_an_entry_or_a_miss(value: object) -> None:
    """Whatever the cache returns is decoded without an exception. A token in it may be used now."""
    entry = decode_entry(value, KEY, NOW)
    if entry.token is not None:
        assert re.fullmatch(r"[A-Za-z0-9._~=/-]{1,4096}", entry.token)
        assert 0 < VisitorToken(entry.token, ADA, entry.created_at).expires_in(NOW) <= EXPIRE_AFTER + CLOCK_SKEW
        assert entry.is_due(ADA, NOW, get_account().profile) in (True, False)
    elif entry is not NO_ENTRY:
        assert NOW - FAILURE_RECORD < entry.retry_at <= NOW + EXPIRE_AFTER
        assert entry.retry_at > NOW or entry.has_failure(NOW)


def test_untrusted_entry_is_a_miss() -> None:
    """Entries with unusable, expired or future tokens, wrong types, missing parts or another owner are ignored."""
    stored = new_entry().as_primitives(KEY)
    assert decode_entry(stored, KEY, NOW).token == "token"
    for changes in (
        {"token": "to ken"},
        {"token": "token&email=mallory@example.com"},
        {"token": ""},
        {"token": "a" * 4097},
        {"token": b"token"},
        {"token": None},
        {"created_at": NOW - EXPIRE_AFTER},
        {"created_at": NOW + CLOCK_SKEW + 1},
        {"created_at": str(NOW)},
        {"retry_at": NOW + EXPIRE_AFTER + 1},
        {"retry_at": None},
        {"profile": None},
        {"owner": KEY[:OWNER_LENGTH]},
        {"owner": None},
        {"failed_at": -1.0},
        {"failed_at": None},
    ):
        assert decode_entry({**stored, **changes}, KEY, NOW) is NO_ENTRY, changes
    for missing in stored:
        assert decode_entry({name: stored[name] for name in stored if name != missing}, KEY, NOW) is NO_ENTRY, missing


def test_token_of_a_clock_slightly_ahead_is_valid() -> None:
    """The clocks of two hosts may differ by some seconds."""
    assert decode_entry(new_entry(-CLOCK_SKEW).as_primitives(KEY), KEY, NOW).token == "token"


def test_failure_without_a_token_is_kept_until_the_next_attempt() -> None:
    """Such an entry says only when to try again. After that it is a miss."""
    stored = Entry(None, 0.0, NOW + 20, "").as_primitives(KEY)
    entry = decode_entry(stored, KEY, NOW)
    assert (entry.token, entry.retry_at, entry.is_due(ADA, NOW, get_account().profile)) == (None, NOW + 20, False)
    assert decode_entry(stored, KEY, NOW + 20) is NO_ENTRY
    assert NO_ENTRY.is_due(ADA, NOW, get_account().profile)


# Ages


def test_token_is_refreshed_between_seven_and_eight_hours() -> None:
    """Earlier it is not due, and later it always is."""
    ages = (0, RENEW_AFTER * (1 - RENEW_SPREAD) - 1, RENEW_AFTER, EXPIRE_AFTER - 1)
    assert [new_entry(age).is_due(ADA, NOW, get_account().profile) for age in ages] == [False, False, True, True]


def test_refreshes_are_spread() -> None:
    """Tokens created together are due at different ages, and the age of each is always the same."""
    ages = [renewal_age(new_entry(token=f"token{number}")) for number in range(200)]
    assert ages == [renewal_age(new_entry(token=f"token{number}")) for number in range(200)]
    assert RENEW_AFTER * (1 - RENEW_SPREAD) <= min(ages) < max(ages) <= RENEW_AFTER
    assert max(ages) - min(ages) > 0.8 * RENEW_SPREAD * RENEW_AFTER
    for number, age in enumerate(ages):
        entry = new_entry(token=f"token{number}")
        assert (
            entry.is_due(ADA, NOW + age - 1, get_account().profile),
            entry.is_due(ADA, NOW + age + 1, get_account().profile),
        ) == (False, True)


def test_failed_refresh_delays_the_next_attempt() -> None:
    """A token that is due is not refreshed before the time of the next attempt."""
    entry = new_entry(RENEW_AFTER, retry_at=NOW + 5)
    assert not entry.is_due(ADA, NOW, get_account().profile)
    assert entry.is_due(ADA, NOW + 5, get_account().profile)


def test_changed_names_refresh_a_token_after_ten_minutes() -> None:
    """The same holds for a changed context. Unchanged names do not refresh a token."""
    for changed in (
        Visitor("ada@example.com", "Augusta", "Lovelace"),
        Visitor("ada@example.com", "Ada", "King"),
        Visitor("ada@example.com", "Ada", "Lovelace", (("plan", "gold"),)),
    ):
        assert not new_entry(CHANGE_AFTER - 1).is_due(changed, NOW, get_account().profile)
        assert new_entry(CHANGE_AFTER).is_due(changed, NOW, get_account().profile)
    assert not new_entry(CHANGE_AFTER).is_due(ADA, NOW, get_account().profile)


def test_regular_visitor_keeps_the_token_through_an_outage_of_three_hours() -> None:
    """Whenever the outage starts, a visitor who opens a page every ten minutes always has a valid token.

    The outage includes the longest cool-down of the circuit breaker, which is five minutes and a fifth.
    """
    outage, gap = 3 * HOUR + 1.2 * 300, 600.0
    for number in range(8):
        entry = new_entry(0, token=f"token{number}")
        for start in range(int(RENEW_AFTER - 2 * HOUR), int(RENEW_AFTER + HOUR), 300):
            age = 0.0
            while not entry.is_due(ADA, NOW + age, get_account().profile) or start <= age < start + outage:
                assert decode_entry(entry.as_primitives(KEY), KEY, NOW + age) == entry
                age += gap
            assert decode_entry(entry.as_primitives(KEY), KEY, NOW + age) == entry


def test_remaining_lifetime_is_never_negative() -> None:
    """A page may use a token for 11.5 hours from the moment before the call, counted in whole seconds."""
    token = VisitorToken("token", ADA, NOW)
    assert token.expires_in(NOW + 0.5) == int(EXPIRE_AFTER) - 1
    assert token.expires_in(NOW + EXPIRE_AFTER + 60) == 0


# Keys and digests


def test_each_account_has_its_own_keys() -> None:
    """Credential, host, path and portal are parts of the cache key, and so is the name of the account."""
    accounts: dict[str, dict[str, object]] = {"eu": {}, "us": {}}
    changes: list[dict[str, Any]] = [
        {"API_KEY": "another"},
        {"BASE_URL": "https://api.example.com"},
        {"TOKEN_PATH": "/visitor-identification/2026-09/tokens/create"},
        {"PORTAL_ID": "124"},
        {"PORTAL_ID": None},
    ]
    configured = [new_account(), *(new_account(**change) for change in changes)]
    configured += [new_account(name=name, ACCOUNTS=accounts) for name in accounts]
    assert len({account.entry_key(ADA) for account in configured}) == len(configured)


def test_key_depends_on_the_address_and_not_on_the_names() -> None:
    """Another address has another key. The case of the address, names and context make no difference."""
    key = new_account().entry_key(ADA)
    assert new_account().entry_key(Visitor("ada@example.org")) != key
    assert new_account().entry_key(Visitor("ADA@example.com", "A", "L", (("plan", "gold"),))) == key


def test_parts_of_a_key_cannot_be_shifted() -> None:
    """Two configurations whose parts only join to the same text have different keys."""
    one = new_account(BASE_URL="https://api.example.com/a", TOKEN_PATH="/b").entry_key(ADA)
    other = new_account(BASE_URL="https://api.example.com", TOKEN_PATH="/a/b").entry_key(ADA)
    assert one != other


def test_rotating_credential_keeps_the_cached_tokens() -> None:
    """What a callable API key returns is not part of the cache key, and the callable is not called for it."""
    keys = iter(["first", "second"])
    key = new_account(API_KEY=lambda: next(keys)).entry_key(ADA)
    assert key == new_account(API_KEY=lambda: "other").entry_key(ADA)
    assert next(keys) == "first"


def test_digests_for_different_purposes_differ() -> None:
    """The browser receives no part of a cache key."""
    assert len({KeyedDigest(purpose)("ada@example.com") for purpose in ("token", "subject", "profile", "refused")}) == 4


def test_keys_are_opaque_and_valid_on_every_back_end(settings: Settings) -> None:
    """Neither address nor credential can be read or guessed from a key, and memcached accepts it."""
    key = new_account().entry_key(ADA)
    assert re.fullmatch(r"hubspot_identify:1:[0-9a-f]{64}", key)
    settings.SECRET_KEY = "another secret of the site"
    assert new_account().entry_key(ADA) != key


def test_subject_depends_on_the_portal_and_the_address(settings: Settings) -> None:
    """It identifies a visitor without revealing the address, and differs from the cache key."""
    name = new_account().subject(ADA)
    assert re.fullmatch(r"[0-9a-f]{32}", name)
    assert name == new_account(API_KEY="another").subject(Visitor("ada@example.com"))
    assert name != new_account(PORTAL_ID="124").subject(ADA)
    assert name != new_account().subject(Visitor("eve@example.com"))
    assert name not in new_account().entry_key(ADA)
    settings.SECRET_KEY = "another secret of the site"
    assert new_account().subject(ADA) != name


def test_no_secret_in_a_repr() -> None:
    """Neither token nor address nor name appears in the text of an object that is logged."""
    for value in (VisitorToken("s3cret-token", ADA, NOW), new_entry(token="s3cret-token")):
        shown = repr(value) + repr(copy.copy(value)) + f"{value}"
        for secret in ("s3cret", "ada@", "Ada", "Lovelace"):
            assert secret not in shown
