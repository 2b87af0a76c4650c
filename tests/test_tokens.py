"""What the cache holds of tokens, under which key, and how they age."""

from __future__ import annotations

import copy
import json
import math
import re
from typing import Any

import pytest
from django.core.cache import cache
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_django import Settings

from hubspot_identify.conf import Config, build_config
from hubspot_identify.tokens import (
    CHANGE_AFTER,
    CLOCK_SKEW,
    DEAD_AFTER,
    FAILURE_RECORD,
    HOUR,
    NO_ENTRY,
    OWNER_LENGTH,
    RENEW_AFTER,
    RENEW_SPREAD,
    Entry,
    VisitorToken,
    decode_entry,
    digest,
    entry_key,
    profile_digest,
    renewal_age,
    subject,
)
from hubspot_identify.visitors import Visitor

NOW = 1_800_000_000.0
ADA = Visitor("ada@example.com", "Ada", "Lovelace")
KEY = "hubspot_identify:1:" + "0123456789abcdef" * 4
SETTINGS = {"API_KEY": "key", "PORTAL_ID": "123", "EMAIL_VERIFIED": True}


def entry_of(age: float = 0.0, **changes: Any) -> Entry:
    """Ada's entry, so many seconds after HubSpot was asked."""
    values = {"token": "token", "created_at": NOW - age, "retry_at": 0.0, "digest": profile_digest(ADA)}
    return Entry(**{**values, **changes})


def config_of(**changes: object) -> Config:
    return build_config({**SETTINGS, **changes})


# The entry


def test_failure_from_a_clock_ahead_discards_no_token() -> None:
    """Another host recorded the failure. Its clock decides about the record, never about the token."""
    entry = decode_entry(entry_of(failed_at=NOW + 3600, retry_at=NOW + 10).as_primitives(KEY), KEY, NOW)
    assert (entry.token, entry.failed_at) == ("token", NOW)


def test_an_entry_survives_the_cache() -> None:
    """What was stored is read back the same, through JSON as well as through a cache of Django's."""
    entry = entry_of(60, retry_at=NOW + 10)
    cache.set("key", entry.as_primitives(KEY))
    assert decode_entry(cache.get("key"), KEY, NOW) == entry
    assert decode_entry(json.loads(json.dumps(entry.as_primitives(KEY))), KEY, NOW) == entry


def test_an_entry_is_made_of_primitives() -> None:
    """No class of ours is stored, so that no version of the app stumbles over another's."""
    stored = entry_of().as_primitives(KEY)
    assert set(stored) == {"owner", "token", "created_at", "retry_at", "digest", "failed_at"}
    assert {type(value) for value in stored.values()} == {str, float}


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
OWNED = {"owner": KEY[-OWNER_LENGTH:]}
HUGE = 10**400
NUMBERS = st.integers() | st.floats() | st.floats(NOW - DEAD_AFTER, NOW + DEAD_AFTER) | st.sampled_from([10**400])
NEARLY_ENTRIES = st.fixed_dictionaries(
    {
        "owner": ANYTHING | st.just(KEY[-OWNER_LENGTH:]),
        "token": ANYTHING | st.from_regex(r"[A-Za-z0-9._~=/-]{1,40}", fullmatch=True),
        "created_at": ANYTHING | NUMBERS,
        "retry_at": ANYTHING | NUMBERS,
        "digest": ANYTHING | st.just(profile_digest(ADA)),
        "failed_at": ANYTHING | NUMBERS,
    }
)


@given(ANYTHING | NEARLY_ENTRIES)
@example({**OWNED, "token": None, "created_at": 0.0, "retry_at": NOW + 1, "digest": "", "failed_at": NOW})
@example({**OWNED, "token": None, "created_at": 0.0, "retry_at": NOW - 1, "digest": "", "failed_at": NOW - 9})
@example({**OWNED, "token": "token", "created_at": NOW, "retry_at": 0, "digest": "", "failed_at": 10**400})
@example({**OWNED, "token": "token", "created_at": 10**400, "retry_at": 0, "digest": "", "failed_at": 0})
@example({**OWNED, "token": "token", "created_at": NOW, "retry_at": -HUGE, "digest": "", "failed_at": -HUGE})
@example({**OWNED, "token": "token", "created_at": math.nan, "retry_at": math.nan, "digest": "", "failed_at": math.nan})
def test_nothing_in_the_cache_crashes_us(value: object) -> None:
    """Whatever stands under our key is either an entry whose token may be used now, or a miss."""
    entry = decode_entry(value, KEY, NOW)
    if entry.token is not None:
        assert re.fullmatch(r"[A-Za-z0-9._~=/-]{1,4096}", entry.token)
        assert 0 < VisitorToken(entry.token, ADA, entry.created_at).expires_in(NOW) <= DEAD_AFTER + CLOCK_SKEW
        assert entry.is_due(ADA, NOW) in (True, False)
    elif entry is not NO_ENTRY:
        assert NOW - FAILURE_RECORD < entry.retry_at <= NOW + DEAD_AFTER
        assert entry.retry_at > NOW or entry.has_failure(NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"token": "to ken"},
        {"token": "token&email=mallory@example.com"},
        {"token": ""},
        {"token": "a" * 4097},
        {"token": b"token"},
        {"token": None},
        {"created_at": NOW - DEAD_AFTER},
        {"created_at": NOW + CLOCK_SKEW + 1},
        {"created_at": str(NOW)},
        {"created_at": None},
        {"retry_at": NOW + DEAD_AFTER + 1},
        {"retry_at": None},
        {"digest": None},
        {"owner": KEY[:OWNER_LENGTH]},
        {"owner": None},
        {"failed_at": -1.0},
        {"failed_at": None},
    ],
)
def test_an_entry_that_can_not_be_trusted_is_a_miss(changes: dict[str, object]) -> None:
    """Unusable tokens, dead ones, ones from the future and wrong types are as if nothing were there."""
    stored = entry_of().as_primitives(KEY)
    assert decode_entry(stored, KEY, NOW).token == "token"
    assert decode_entry({**stored, **changes}, KEY, NOW) is NO_ENTRY


@pytest.mark.parametrize("left_out", ["owner", "token", "created_at", "retry_at", "digest", "failed_at"])
def test_an_entry_of_another_shape_is_a_miss(left_out: str) -> None:
    """An entry that lacks anything was written by somebody else."""
    stored = entry_of().as_primitives(KEY)
    del stored[left_out]
    assert decode_entry(stored, KEY, NOW) is NO_ENTRY


def test_a_clock_that_runs_ahead_is_forgiven() -> None:
    """A token from a host whose clock is some seconds ahead is as good as any."""
    assert decode_entry(entry_of(-CLOCK_SKEW).as_primitives(KEY), KEY, NOW).token == "token"


def test_a_failure_is_remembered_until_it_may_be_tried_again() -> None:
    """Without a token the entry says only when to try again, and then it is a miss."""
    stored = Entry(None, 0.0, NOW + 20, "").as_primitives(KEY)
    entry = decode_entry(stored, KEY, NOW)
    assert (entry.token, entry.retry_at, entry.is_due(ADA, NOW)) == (None, NOW + 20, False)
    assert decode_entry(stored, KEY, NOW + 20) is NO_ENTRY
    assert NO_ENTRY.is_due(ADA, NOW)


# Ages


@pytest.mark.parametrize(
    ("age", "due"),
    [
        (0, False),
        (RENEW_AFTER * (1 - RENEW_SPREAD) - 1, False),
        (RENEW_AFTER, True),
        (DEAD_AFTER - 1, True),
    ],
)
def test_a_token_is_renewed_after_eight_hours_at_most(age: float, due: bool) -> None:
    """Not in the first seven hours, and never later."""
    assert entry_of(age).is_due(ADA, NOW) is due


def test_renewals_are_spread() -> None:
    """Tokens made together fall due apart from each other, each at an age that does not change."""
    ages = [renewal_age(entry_of(token=f"token{number}")) for number in range(200)]
    assert ages == [renewal_age(entry_of(token=f"token{number}")) for number in range(200)]
    assert RENEW_AFTER * (1 - RENEW_SPREAD) <= min(ages) < max(ages) <= RENEW_AFTER
    assert max(ages) - min(ages) > 0.8 * RENEW_SPREAD * RENEW_AFTER
    for number, age in enumerate(ages):
        entry = entry_of(token=f"token{number}")
        assert (entry.is_due(ADA, NOW + age - 1), entry.is_due(ADA, NOW + age + 1)) == (False, True)


def test_a_retry_waits_for_its_time() -> None:
    """A token that is due, but whose renewal just failed, is left alone until then."""
    entry = entry_of(9 * HOUR, retry_at=NOW + 5)
    assert not entry.is_due(ADA, NOW)
    assert entry.is_due(ADA, NOW + 5)


@pytest.mark.parametrize(
    "changed",
    [
        Visitor("ada@example.com", "Augusta", "Lovelace"),
        Visitor("ada@example.com", "Ada", "King"),
        Visitor("ada@example.com", "Ada", "Lovelace", {"plan": "gold"}),
    ],
)
def test_changed_names_renew_a_token_after_ten_minutes(changed: Visitor) -> None:
    """Names and context that are not those of the token make it due, but not before ten minutes have passed."""
    assert not entry_of(CHANGE_AFTER - 1).is_due(changed, NOW)
    assert entry_of(CHANGE_AFTER).is_due(changed, NOW)
    assert not entry_of(CHANGE_AFTER).is_due(ADA, NOW)


def test_three_hours_without_hubspot_cost_no_active_visitor_their_token() -> None:
    """Whenever an outage of three hours begins, who looks at a page every ten minutes has a token all the time.

    Everything is at its worst: the breaker's probe comes last, five minutes and a fifth after HubSpot is back.
    """
    outage, gap = 3 * HOUR + 1.2 * 300, 600.0
    for number in range(20):
        entry = entry_of(0, token=f"token{number}")
        for start in range(int(6 * HOUR), int(9 * HOUR), 300):
            age = 0.0
            while not entry.is_due(ADA, NOW + age) or start <= age < start + outage:
                assert decode_entry(entry.as_primitives(KEY), KEY, NOW + age) == entry
                age += gap
            assert decode_entry(entry.as_primitives(KEY), KEY, NOW + age) == entry


def test_a_token_says_how_long_a_page_may_use_it() -> None:
    """11.5 hours from the moment before the call, in whole seconds, and never less than none."""
    token = VisitorToken("token", ADA, NOW)
    assert token.expires_in(NOW + 0.5) == int(DEAD_AFTER) - 1
    assert token.expires_in(NOW + DEAD_AFTER + 60) == 0


# Keys and digests


@pytest.mark.parametrize(
    "changes",
    [
        {"API_KEY": "another"},
        {"BASE_URL": "https://api.example.com"},
        {"TOKEN_PATH": "/visitor-identification/2026-09/tokens/create"},
        {"PORTAL_ID": "124"},
        {"PORTAL_ID": None},
    ],
)
def test_another_account_never_finds_the_token(changes: dict[str, object]) -> None:
    """Each part of what makes a token HubSpot's own is part of the key."""
    assert entry_key(ADA, config_of(**changes)) != entry_key(ADA, config_of())


def test_accounts_of_one_portal_are_apart() -> None:
    """The name alone separates two accounts with the same values."""
    accounts = {**SETTINGS, "ACCOUNTS": {"eu": {}, "us": {}}}
    keys = {entry_key(ADA, build_config(accounts, name)) for name in ("", "eu", "us")}
    assert len(keys) == 3


def test_the_address_decides_and_names_do_not() -> None:
    """Another address is another key; names and context are not part of it."""
    key = entry_key(ADA, config_of())
    assert entry_key(Visitor("ada@example.org"), config_of()) != key
    assert entry_key(Visitor("ADA@example.com", "A", "L", {"plan": "gold"}), config_of()) == key


def test_parts_of_a_key_can_not_be_shifted() -> None:
    """Two configurations whose parts only join to the same text have keys of their own."""
    one = entry_key(ADA, config_of(BASE_URL="https://api.example.com/a", TOKEN_PATH="/b"))
    other = entry_key(ADA, config_of(BASE_URL="https://api.example.com", TOKEN_PATH="/a/b"))
    assert one != other


def test_a_callable_key_may_change() -> None:
    """What a callable returns is not part of the key, so that a rotating credential leaves all tokens warm."""
    keys = iter(["first", "second"])
    config = config_of(API_KEY=lambda: next(keys))
    assert entry_key(ADA, config) == entry_key(ADA, config_of(API_KEY=lambda: "other"))
    assert next(keys) == "first"  # nobody asked


def test_digests_for_different_purposes_differ() -> None:
    """What the browser is told of a visitor is no part of anything that stands in the cache."""
    assert len({digest(purpose, "ada@example.com") for purpose in ("token", "subject", "profile", "refused")}) == 4


def test_keys_are_opaque_and_fit_everywhere(settings: Settings) -> None:
    """Neither address nor credential can be read or guessed from a key, and memcached accepts it."""
    key = entry_key(ADA, config_of())
    assert re.fullmatch(r"hubspot_identify:1:[0-9a-f]{64}", key)
    settings.SECRET_KEY = "another secret of the site"
    assert entry_key(ADA, config_of()) != key


def test_the_subject_is_that_of_a_portal_and_an_address(settings: Settings) -> None:
    """It names a visitor without saying who, and differs from what keys are made of."""
    name = subject(ADA, config_of())
    assert re.fullmatch(r"[0-9a-f]{32}", name)
    assert name == subject(Visitor("ada@example.com"), config_of(API_KEY="another"))
    assert name != subject(ADA, config_of(PORTAL_ID="124"))
    assert name != subject(Visitor("eve@example.com"), config_of())
    assert name not in entry_key(ADA, config_of())
    settings.SECRET_KEY = "another secret of the site"
    assert subject(ADA, config_of()) != name


@pytest.mark.parametrize("value", [VisitorToken("s3cret-token", ADA, NOW), entry_of(token="s3cret-token")])
def test_no_secret_in_a_repr(value: object) -> None:
    """Neither token nor address nor name shows where somebody logs the object."""
    shown = repr(value) + repr(copy.copy(value)) + f"{value}"
    for secret in ("s3cret", "ada@", "Ada", "Lovelace"):
        assert secret not in shown
