"""User models like those of sites. The app is not installed, so there are no tables, and users stay in memory."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.db import models


class Plain(AbstractBaseUser):
    """A user without name fields."""

    USERNAME_FIELD = "email"

    email = models.EmailField(unique=True)

    class Meta:
        app_label = "users"


class OtherField(AbstractBaseUser):
    """A user with the address in ``EMAIL_FIELD``, and a field ``email`` with another address."""

    USERNAME_FIELD = "login"
    EMAIL_FIELD = "mailbox"

    login = models.CharField(max_length=50, unique=True)
    mailbox = models.EmailField(null=True)  # noqa: DJ001 - some sites have it
    email = models.EmailField(help_text="of the invoice department")

    class Meta:
        app_label = "users"


class OneName(AbstractBaseUser):
    """A user with one field for the whole name, like those of cookiecutter-django."""

    USERNAME_FIELD = "email"

    email = models.EmailField(unique=True)
    name = models.CharField(max_length=255)
    first_name = None
    last_name = None

    class Meta:
        app_label = "users"


class NoEmail(AbstractBaseUser):
    """A user without an address."""

    USERNAME_FIELD = "phone"

    phone = models.CharField(max_length=50, unique=True)

    class Meta:
        app_label = "users"


class WithUUID(AbstractBaseUser):
    """A user with a UUID as the primary key."""

    USERNAME_FIELD = "email"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    first_name = models.CharField(max_length=50, null=True)  # noqa: DJ001 - some sites have it

    class Meta:
        app_label = "users"

    def last_name(self) -> str:
        """A method with the name of a field in other models."""
        raise AssertionError("The app called a method to get a name.")


class EmailAsKey(AbstractBaseUser):
    """A user with the address as the primary key."""

    USERNAME_FIELD = "email"

    email = models.EmailField(primary_key=True)

    class Meta:
        app_label = "users"


class Proxy(User):
    """A proxy of Django's user."""

    class Meta:
        app_label = "users"
        proxy = True
