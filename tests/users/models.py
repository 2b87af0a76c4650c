"""User models as sites have them. Nothing here is installed, so there are no tables: users in memory will do."""

from __future__ import annotations

import uuid

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import User
from django.db import models


class Plain(AbstractBaseUser):
    """No names at all."""

    USERNAME_FIELD = "email"

    email = models.EmailField(unique=True)

    class Meta:
        app_label = "users"


class OtherField(AbstractBaseUser):
    """The address in a field of another name, and beside it one that must not be taken for it."""

    USERNAME_FIELD = "login"
    EMAIL_FIELD = "mailbox"

    login = models.CharField(max_length=50, unique=True)
    mailbox = models.EmailField(null=True)  # noqa: DJ001 - some have it
    email = models.EmailField(help_text="of the invoice department")

    class Meta:
        app_label = "users"


class NoEmail(AbstractBaseUser):
    """No address, and nothing said about where it would be."""

    USERNAME_FIELD = "phone"

    phone = models.CharField(max_length=50, unique=True)

    class Meta:
        app_label = "users"


class WithUUID(AbstractBaseUser):
    USERNAME_FIELD = "email"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    email = models.EmailField(unique=True)
    first_name = models.CharField(max_length=50, null=True)  # noqa: DJ001 - some have it

    class Meta:
        app_label = "users"

    def last_name(self) -> str:
        """A method, where other models have a field."""
        raise AssertionError("It is no name, and not to be called for one.")


class EmailAsKey(AbstractBaseUser):
    USERNAME_FIELD = "email"

    email = models.EmailField(primary_key=True)

    class Meta:
        app_label = "users"


class Proxy(User):
    """Django's own user behind another class."""

    class Meta:
        app_label = "users"
        proxy = True
