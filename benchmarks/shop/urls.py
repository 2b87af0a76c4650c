from __future__ import annotations

from django.urls import include, path

from . import views

urlpatterns = [
    path("page/", views.page),
    path("hubspot/", include("hubspot_identify.urls")),
]
