from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpResponseBase
from django.urls import include, path
from django.views.decorators.cache import cache_page
from django.views.generic import TemplateView

from . import views
from .people import PASSWORD, PEOPLE


def page(template: str) -> Callable[..., HttpResponseBase]:
    return TemplateView.as_view(template_name=template)


urlpatterns = [
    path("", page("home.html"), name="home"),
    path("inline/", page("inline.html"), name="inline"),
    path("idle/", page("idle.html"), name="idle"),
    path("interaction/", page("interaction.html"), name="interaction"),
    path("cached/", cache_page(600)(page("cached.html")), name="cached"),
    path("htmx/<int:number>/", page("htmx.html"), name="htmx"),
    path("turbo/<int:number>/", page("turbo.html"), name="turbo"),
    path("login/", LoginView.as_view(extra_context={"people": PEOPLE, "password": PASSWORD}), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("scenario/", views.scenario, name="scenario"),
    path("hubspot/", include("hubspot_identify.urls")),
    path("sandbox/", include("hubspot_identify.sandbox.urls")),
]
