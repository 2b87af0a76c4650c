"""Hostile names, addresses, tokens and settings do not leave the attribute in which they are rendered."""

from __future__ import annotations

import json
import time

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from hypothesis import given
from hypothesis import settings as configure
from hypothesis import strategies as st
from support.pages import Render, elements, render_django, render_jinja, request_by, visitor_for

from hubspot_identify._tokens.account import get_account
from hubspot_identify._tokens.entries import EXPIRE_AFTER, Entry
from hubspot_identify.services import Identification
from hubspot_identify.testing import fake_hubspot
from hubspot_identify.widget import render_script

PAGE = "<!doctype html><html><head><title>Page</title></head><body><p>Before</p>{}<p>After</p></body></html>"
TAGS = ["html", "head", "title", "body", "p", "script", "p"]
HOSTILE = {
    "end of script": "</script><script>alert(1)</script>",
    "comment": "<!--<script>",
    "CDATA": "]]><svg onload=alert(1)>",
    "quotes": "\" onload='alert(1)' x=`",
    "entities": "&quot;&#34;&lt;&amp;quot;",
    "backslashes": '\\"\\u0022\\',
    "line separators": "\u2028alert(1)\u2029",
    "lines": "\r\n\t\f\v\x85",
    "NUL": "\0<\0script>",
    "lone surrogates": "\udfff<\ud800 ",
    "bidi": "\u202e\u2066>tpircs<\u2069",
    "templates": "{{ settings.SECRET_KEY }}{% debug %}%s{0}{}",
    "other planes": "😀\U0010ffff\ufffe\ufdd0",
}
HOSTILE["a long text"] = "x" * 200_000 + "\"'></script><script>"


def hostile(*names: str) -> pytest.MarkDecorator:
    """Run a test with these texts."""
    return pytest.mark.parametrize("text", [HOSTILE[name] for name in names], ids=names)


INLINE = {"API_KEY": "key", "PORTAL_ID": "123", "EMAIL_VERIFIED": True, "DELIVERY": "inline"}
NAMES = ("endpoint", "loader", "load-on", "widget", "subject", "identity")


def read(element: str) -> dict[str, str]:
    """The attributes of the element as a browser parses them, in a page that is otherwise unchanged."""
    found = elements(PAGE.format(element))
    assert [tag for tag, _ in found] == TAGS
    assert [attributes for tag, attributes in found if tag != "script"] == [{}] * (len(TAGS) - 1)
    return found[TAGS.index("script")][1]


def element_with(render: Render, email: str, token: str, selector: str) -> str:
    """The element with these texts in its attributes, without the validation that would reject them."""
    identity = {"email": email, "token": token, "expires_in": 1}
    with override_settings(HUBSPOT_IDENTIFY={**INLINE, "WIDGET": {"inlineEmbedSelector": selector}}):
        return render(None, identity=Identification("subject", identity))


def check_attributes(attributes: dict[str, str], email: str, token: str, selector: str) -> None:
    """Check that a script reads these texts from the attributes, and that there are no other attributes."""
    assert list(attributes) == ["data-cfasync", "src", "defer", *(f"data-{name}" for name in NAMES)]
    assert json.loads(attributes["data-widget"]) == {"avoidInlineStyles": True, "inlineEmbedSelector": selector}
    assert json.loads(attributes["data-identity"]) == {"email": email, "token": token, "expires_in": 1}


@hostile(*HOSTILE)
def test_hostile_text_stays_in_its_attribute(text: str) -> None:
    """Address, token and widget option are read from the element as they were written."""
    check_attributes(read(element_with(render_django, text, text, text)), text, text, text)


def test_hostile_text_stays_in_its_attribute_with_jinja() -> None:
    """Jinja does not escape the element a second time."""
    text = HOSTILE["quotes"] + HOSTILE["end of script"]
    check_attributes(read(element_with(render_jinja, text, text, text)), text, text, text)


pieces = st.text() | st.sampled_from([text for text in HOSTILE.values() if len(text) < 100])
texts = pieces | st.tuples(pieces, pieces).map("".join)


# 10,000 texts, three to a page, because html5lib is slow.
@pytest.mark.slow
@configure(max_examples=3334, deadline=None, database=None)
@given(email=texts, token=texts, selector=texts)
def test_ten_thousand_random_texts_stay_in_their_attributes(email: str, token: str, selector: str) -> None:
    """The same holds for random texts."""
    check_attributes(read(element_with(render_script, email, token, selector)), email, token, selector)


@hostile("quotes", "entities", "lines", "NUL")
def test_hostile_nonce_stays_in_its_attribute(text: str) -> None:
    """The site may pass any text as the nonce."""
    attributes = read(render_django(None, nonce=text))
    if text.isprintable():  # HTML cannot represent the others unchanged
        assert attributes["nonce"] == text
    data = ["data-endpoint", "data-loader", "data-load-on", "data-widget"]
    assert list(attributes) == ["data-cfasync", "src", "defer", *data, "nonce"]


@hostile("quotes", "NUL", "lone surrogates", "a long text")
def test_user_with_a_hostile_name_is_identified(text: str) -> None:
    """HubSpot gets the name, and the page has only the token."""
    user = User(pk=1, email="ada@example.com", first_name=text, last_name=text)
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10) as hubspot:
        identity = json.loads(read(render_django(request_by(user)))["data-identity"])
    assert identity["email"] == "ada@example.com"
    assert identity["token"] in hubspot.tokens


@pytest.mark.parametrize("shape", ["{}@example.com", '"{}"@example.com', "ada@{}.com", "ada@example.com{}"])
@hostile("lines", "NUL", "lone surrogates", "a long text")
def test_user_with_an_invalid_address_is_anonymous(text: str, shape: str, caplog: pytest.LogCaptureFixture) -> None:
    """The address is neither sent to HubSpot nor logged."""
    email = shape.format(text)
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10) as hubspot:
        attributes = read(render_django(request_by(User(pk=1, email=email))))
    assert (attributes.get("data-identity"), attributes["data-subject"], hubspot.calls) == (None, "", 0)
    assert email not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


@hostile("quotes", "lines", "NUL", "lone surrogates")
def test_invalid_token_in_the_cache_is_not_rendered(text: str) -> None:
    """A cache entry of another program does not reach the page."""
    user = User(pk=1, email="ada@example.com")
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=0) as hubspot:
        hubspot.fail(503)

        def identity_with(token: str) -> str | None:
            key = get_account().entry_key(visitor_for(user))
            entry = Entry(token, time.time(), 0.0, "").as_primitives(key)
            get_account().store.set(key, entry, EXPIRE_AFTER)
            return read(render_django(request_by(user))).get("data-identity")

        assert identity_with(text) is None
        hubspot.settle()  # the refresh that the invalid entry started writes its failure to the cache
        assert json.loads(identity_with("a-token") or "{}")["token"] == "a-token"
