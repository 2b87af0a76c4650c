"""URLs of the test suite: the app's own, where the README puts them."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("hubspot/", include("hubspot_identify.urls"))]
