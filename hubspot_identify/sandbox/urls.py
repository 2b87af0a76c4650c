from __future__ import annotations

from django.urls import path

from . import api, views

app_name = "hubspot_identify_sandbox"

urlpatterns = [
    *(path(f"api/{each}", views.create_token) for each in api.PATHS),
    path("loader/<slug:portal>.js", views.file, {"name": "loader.js"}, name="loader"),
    path("embed/<str:name>", views.embed, name="embed"),
    path("livechat-public/<slug:portal>/", views.livechat, name="livechat"),
    path("chat/<slug:portal>/", views.chat, name="chat"),
    path("chat/<slug:portal>/thread/", views.thread, name="thread"),
    path("files/chat.js", views.file, {"name": "chat.js"}),
    path("files/chat.css", views.file, {"name": "chat.css"}),
    path("files/inbox.js", views.file, {"name": "inbox.js"}),
    path("files/inbox.css", views.file, {"name": "inbox.css"}),
    path("inbox/", views.inbox, name="inbox"),
    path("inbox.json", views.inbox_json, name="inbox-json"),
    path("scenario/", views.scenario, name="scenario"),
]
