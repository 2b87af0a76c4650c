"""Names, addresses, tokens and settings that want out of their attribute, and don't get there."""

from __future__ import annotations

import json
import time

import pytest
from django.contrib.auth.models import User
from django.test import override_settings
from hypothesis import given
from hypothesis import settings as configure
from hypothesis import strategies as st
from support.pages import ENGINES, Render, elements, request_by, visitor_for

from hubspot_identify.conf import get_config
from hubspot_identify.services import Identification
from hubspot_identify.store import get_store
from hubspot_identify.testing import fake_hubspot
from hubspot_identify.tokens import DEAD_AFTER, Entry, entry_key
from hubspot_identify.widget import render_script

PAGE = "<!doctype html><html><head><title>Page</title></head><body><p>Before</p>{}<p>After</p></body></html>"
TAGS = ["html", "head", "title", "body", "p", "script", "p"]
MEGABYTE = "x" * 1_000_000 + "\"'></script><script>"
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
hostile = pytest.mark.parametrize("text", [*HOSTILE.values(), MEGABYTE], ids=[*HOSTILE, "a megabyte"])


INLINE = {"API_KEY": "key", "PORTAL_ID": "123", "EMAIL_VERIFIED": True, "DELIVERY": "inline"}
NAMES = ("endpoint", "loader", "load-on", "widget", "subject", "identity")


@pytest.fixture(params=ENGINES)
def render(request: pytest.FixtureRequest) -> Render:
    return ENGINES[request.param]


def read(element: str) -> dict[str, str]:
    """The attributes of the element as a browser reads them, in a page that has nothing else than it had before."""
    found = elements(PAGE.format(element))
    assert [tag for tag, _ in found] == TAGS
    assert [attributes for tag, attributes in found if tag != "script"] == [{}] * (len(TAGS) - 1)
    return found[TAGS.index("script")][1]


def element_with(render: Render, email: str, token: str, selector: str) -> str:
    """The element with texts in the places that hold some, past everything that would refuse them."""
    identity = {"email": email, "token": token, "expires_in": 1}
    with override_settings(HUBSPOT_IDENTIFY={**INLINE, "WIDGET": {"inlineEmbedSelector": selector}}):
        return render(None, identity=Identification("subject", identity))


def holds(attributes: dict[str, str], email: str, token: str, selector: str) -> None:
    """What was put into the attributes is what the script reads there, and there are no others."""
    assert list(attributes) == ["src", "defer", *(f"data-{name}" for name in NAMES)]
    assert json.loads(attributes["data-widget"]) == {"avoidInlineStyles": True, "inlineEmbedSelector": selector}
    assert json.loads(attributes["data-identity"]) == {"email": email, "token": token, "expires_in": 1}


@hostile
def test_attributes_hold_anything(render: Render, text: str) -> None:
    """Were every check before it to fail, still nothing would get out of the element."""
    holds(read(element_with(render, text, text, text)), text, text, text)


pieces = st.text() | st.sampled_from(list(HOSTILE.values()))
texts = pieces | st.tuples(pieces, pieces).map("".join)


# 10 000 texts, three to a page: html5lib takes its time.
@configure(
    max_examples=3334,
    deadline=None,
    database=None,
)
@given(email=texts, token=texts, selector=texts)
def test_attributes_hold_ten_thousand_others(email: str, token: str, selector: str) -> None:
    """The same for texts that nobody thought of."""
    holds(read(element_with(render_script, email, token, selector)), email, token, selector)


@hostile
def test_nonce(render: Render, text: str) -> None:
    """A nonce that a site makes of anything stays in its attribute."""
    attributes = read(render(None, nonce=text))
    if text.isprintable():  # HTML can't hold the others as they are
        assert attributes["nonce"] == text
    assert list(attributes) == ["src", "defer", "nonce", "data-endpoint", "data-loader", "data-load-on", "data-widget"]


@hostile
def test_names(render: Render, text: str) -> None:
    """A user may be called whatever they like: HubSpot gets the name, the page has the token."""
    user = User(pk=1, email="ada@example.com", first_name=text, last_name=text)
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10) as hubspot:
        identity = json.loads(read(render(request_by(user)))["data-identity"])
    assert identity["email"] == "ada@example.com"
    assert identity["token"] in hubspot.tokens


@hostile
@pytest.mark.parametrize("shape", ["{}@example.com", '"{}"@example.com', "ada@{}.com", "ada@example.com{}"])
def test_addresses(render: Render, text: str, shape: str, caplog: pytest.LogCaptureFixture) -> None:
    """An address that is none makes an anonymous visitor, and does not get into the log."""
    email = shape.format(text)
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=10) as hubspot:
        attributes = read(render(request_by(User(pk=1, email=email))))
    assert (attributes.get("data-identity"), attributes["data-subject"], hubspot.calls) == (None, "", 0)
    assert email not in caplog.text
    assert all("\n" not in record.getMessage() for record in caplog.records)


@hostile
def test_tokens(render: Render, text: str) -> None:
    """What somebody else put into the cache is no token, and doesn't reach the page."""
    user = User(pk=1, email="ada@example.com")
    with fake_hubspot(DELIVERY="inline", PAGE_WAIT=0) as hubspot:
        hubspot.fail(503)

        def shown(token: str) -> str | None:
            key = entry_key(visitor_for(user), get_config())
            entry = Entry(token, time.time(), 0.0, "").as_primitives(key)
            get_store("default").set(key, entry, DEAD_AFTER)
            return read(render(request_by(user))).get("data-identity")

        assert shown(text) is None
        hubspot.settle()  # the renewal that the foreign entry began notes its failure in the cache
        assert json.loads(shown("a-token") or "{}")["token"] == "a-token"
