"""The stand-in's pages and scripts: loader, chat, inbox, and the switch for its mood."""

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
from django.views.decorators.clickjacking import xframe_options_sameorigin
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from . import api
from .state import Mood, Thread, sandbox

FILES = Path(__file__).parent / "files"
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}


def development_only(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponseBase]:
    """Return a view of the sandbox: 404 unless ``DEBUG``, 403 for a ``POST`` of a page of another site.

    The token API is called by programs, which have no CSRF cookie. Browsers name the origin of every ``POST``.
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
    """The token API; see ``api``."""
    return api.create_token(request)


@development_only
@require_GET
@xframe_options_sameorigin
def file(request: HttpRequest, name: str, portal: str = "") -> HttpResponse:
    """One of the stand-in's own files. They need neither static files nor templates of the site."""
    path = FILES / name
    return HttpResponse(path.read_bytes(), content_type=f"{TYPES[path.suffix]}; charset=utf-8")


@development_only
@require_GET
def livechat(request: HttpRequest, portal: str) -> HttpResponse:
    """What the widget asks before it draws: who is this? E-mail and token come in the URL."""
    email, token = request.GET.get("email", ""), request.GET.get("identificationToken", "")
    if "setIdentification" in request.GET:
        sandbox.adopt(email, token, request.GET.get("messagesUtk", ""))
    return JsonResponse({"known": sandbox.believe(email, token) is not None})


@development_only
@require_POST
def thread(request: HttpRequest, portal: str) -> HttpResponse:
    """What the chat's iframe asks: the conversation so far, after adding ``text`` where there is one."""
    asked = json.loads(request.body)
    who = {name: str(asked.get(name) or "") for name in ("email", "token", "utk")}
    contact = sandbox.believe(who["email"], who["token"])
    before = sandbox.thread(**who)
    text = str(asked.get("text") or "").strip()
    now = sandbox.say(text, **who, page=str(asked.get("page") or "")) if text else before
    return JsonResponse(
        {
            "contact": {"email": contact.email, "name": contact.name} if contact else None,
            "started": before is None and now is not None,
            "thread": now.id if now else None,
            "messages": list(now.messages) if now else [],
        }
    )


def thread_as_json(thread: Thread) -> dict[str, Any]:
    """One conversation as the support agent sees it."""
    contact = thread.contact
    return {
        "id": thread.id,
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
    """The inbox for programs."""
    return JsonResponse({"threads": [thread_as_json(each) for each in sandbox.threads()]})


@cache
def engine() -> Engine:
    return Engine(dirs=[str(FILES)])


@development_only
@require_GET
def inbox(request: HttpRequest) -> HttpResponse:
    """The support agent's inbox: known contacts, and unknown visitors."""
    threads = [thread_as_json(each) for each in sandbox.threads()]
    context = Context({"threads": threads, "mood": sandbox.mood.value})
    return HttpResponse(engine().get_template("inbox.html").render(context))


@development_only
@require_http_methods(["GET", "POST"])
def mood(request: HttpRequest) -> HttpResponse:
    """``POST mood=…`` switches the token API's mood, ``GET`` says it."""
    if request.method == "POST":
        wanted = request.POST.get("mood", "")
        if wanted not in set(Mood):
            return JsonResponse({"mood": sandbox.mood, "moods": list(Mood)}, status=400)
        sandbox.set_mood(wanted)
    return JsonResponse({"mood": sandbox.mood, "moods": list(Mood)})
