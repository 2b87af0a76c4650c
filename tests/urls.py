"""The URLconf of the test suite, with the app's URLs as in the README."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("hubspot/", include("hubspot_identify.urls"))]
