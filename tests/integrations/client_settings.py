"""A site with an API and second factors, beside the packages for impersonation."""

from __future__ import annotations

from integrations.settings import *  # noqa: F403
from integrations.settings import INSTALLED_APPS as PACKAGES
from integrations.settings import MIDDLEWARE as PACKAGES_MIDDLEWARE

SECRET_KEY = "only-for-tests, and as long as the signatures of JWT require"
INSTALLED_APPS = [
    *PACKAGES,
    "rest_framework.authtoken",
    "django_otp",
    "django_otp.plugins.otp_static",
    "django_otp.plugins.otp_totp",
]
MIDDLEWARE = [*PACKAGES_MIDDLEWARE, "hijack.middleware.HijackUserMiddleware", "django_otp.middleware.OTPMiddleware"]
