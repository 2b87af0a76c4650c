"""The views of the sandbox: loader, chat, inbox, and the switch between scenarios."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseForbidden, JsonResponse
from django.template import Context, Engine
from django.views.decorators.cache import never_cache
from django.views.decorators.clickjacking import xframe_options_exempt
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from . import api
from .state import Scenario, Thread, sandbox

FILES = Path(__file__).parent / "files"
EMBED_FILES = frozenset(path.name for path in (FILES / "embed").iterdir())
#: The policy of the chat's page, which any page may frame. Without a policy of the sandbox, middleware would add the
#: site's, which does not match the sandbox's pages.
CHAT_POLICY = "default-src 'self'; img-src 'self' data:; base-uri 'none'"
POLICY = f"{CHAT_POLICY}; frame-ancestors 'self'"
ANY_ORIGIN = {"Access-Control-Allow-Origin": "*"}
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


def development_only(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponseBase]:
    """Make a view respond with 404 unless ``DEBUG`` is set, and with 403 to a ``POST`` from a page of another site.

    CSRF tokens are not required, because programs call the token API. Browsers send the origin with every ``POST``.
    """

    @wraps(view)
    def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.DEBUG:
            raise Http404
        origin = request.headers.get("Origin")
        if request.method == "POST" and origin is not None and origin.partition("://")[2] != request.get_host():
            return HttpResponseForbidden("The sandbox accepts no POST from another site.", content_type="text/plain")
        return view(request, *args, **kwargs)

    open_view: Callable[..., HttpResponseBase] = login_not_required(csrf_exempt(never_cache(wrapper)))
    return open_view


@development_only
def create_token(request: HttpRequest) -> HttpResponse:
    """Simulate the token API; see :mod:`.api`."""
    return api.create_token(request)


def serve_file(name: str, **headers: str) -> HttpResponse:
    """Serve one of the sandbox's files, which do not depend on the site's static files and templates."""
    path = FILES / name
    headers.setdefault("Content-Security-Policy", POLICY)
    return HttpResponse(path.read_bytes(), content_type=f"{TYPES[path.suffix]}; charset=utf-8", headers=headers)


@development_only
@require_GET
def file(request: HttpRequest, name: str, portal: str = "") -> HttpResponse:
    """Serve the loader, or a file of the chat's or the inbox's page."""
    return serve_file(name)


@development_only
@require_GET
def embed(request: HttpRequest, name: str) -> HttpResponse:
    """Serve a file of the widget. Pages of all origins may load its modules, as they may load HubSpot's script."""
    if name not in EMBED_FILES:
        raise Http404
    return serve_file(f"embed/{name}", **ANY_ORIGIN)


@development_only
@require_GET
@xframe_options_exempt
def chat(request: HttpRequest, portal: str) -> HttpResponse:
    """Serve the page in the chat's iframe, which may be on another origin than the page around it, as HubSpot's is."""
    return serve_file("chat.html", **{"Content-Security-Policy": CHAT_POLICY})


@development_only
@require_GET
def livechat(request: HttpRequest, portal: str) -> HttpResponse:
    """Return whether the visitor is a contact, before the widget shows the chat. E-mail and token are in the URL."""
    email, token = request.GET.get("email", ""), request.GET.get("identificationToken", "")
    if "setIdentification" in request.GET:
        sandbox.link_to_contact(email, token, request.GET.get("messagesUtk", ""), portal)
    return JsonResponse({"known": sandbox.contact_for(email, token) is not None}, headers=ANY_ORIGIN)


@development_only
@require_POST
def thread(request: HttpRequest, portal: str) -> HttpResponse:
    """Return the conversation to the chat's iframe, after adding the message ``text``, if there is one."""
    data = json.loads(request.body)
    visitor = {name: str(data.get(name) or "") for name in ("email", "token", "utk")} | {"portal": portal}
    contact = sandbox.contact_for(visitor["email"], visitor["token"])
    before = sandbox.thread(**visitor)
    text = str(data.get("text") or "").strip()
    after = sandbox.add_message(text, **visitor, page=str(data.get("page") or "")) if text else before
    return JsonResponse(
        {
            "contact": {"email": contact.email, "name": contact.name} if contact else None,
            "started": before is None and after is not None,
            "thread": after.id if after else None,
            "messages": list(after.messages) if after else [],
        }
    )


def thread_as_json(thread: Thread) -> dict[str, Any]:
    """Return what the support agent sees of a conversation."""
    contact = thread.contact
    return {
        "id": thread.id,
        "portal": thread.portal,
        "visitor": contact.name if contact else "Unknown visitor",
        "email": contact.email if contact else None,
        "verified": contact is not None,
        "claimed": None if contact else thread.claimed or None,
        "page": thread.page,
        "messages": list(thread.messages),
    }


@development_only
@require_GET
def inbox_json(request: HttpRequest) -> HttpResponse:
    """Return the inbox as JSON, for programs."""
    return JsonResponse({"threads": [thread_as_json(each) for each in sandbox.threads()]})


@cache
def engine() -> Engine:
    return Engine(dirs=[str(FILES)])


@development_only
@require_GET
def inbox(request: HttpRequest) -> HttpResponse:
    """Show the support agent's inbox: the conversations of contacts and unknown visitors."""
    threads = [thread_as_json(each) for each in sandbox.threads()]
    context = Context({"threads": threads, "scenario": sandbox.scenario.value})
    html = engine().get_template("inbox.html").render(context)
    return HttpResponse(html, headers={"Content-Security-Policy": POLICY})


@development_only
@require_http_methods(["GET", "POST"])
def scenario(request: HttpRequest) -> HttpResponse:
    """Return the scenario of the token API and those available, after switching to that of a ``POST scenario=…``."""
    status = 200
    if request.method == "POST":
        name = request.POST.get("scenario", "")
        if name in set(Scenario):
            sandbox.set_scenario(name)
        else:
            status = 400
    return JsonResponse({"scenario": sandbox.scenario, "scenarios": list(Scenario)}, status=status)
