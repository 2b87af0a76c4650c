"""``path("hubspot/", include("hubspot_identify.urls"))``"""

from __future__ import annotations

from django.urls import path

from . import views

app_name = "hubspot_identify"
urlpatterns = [
    path("identity/", views.identity, name="identity"),
    path("identity/<slug:account>/", views.identity, name="identity"),
]
