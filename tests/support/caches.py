"""Django's cache back ends as the tests use them, in this process and in those it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: Where Django keeps each back end, below ``django.core.cache.backends``, by the name the suite gives it.
CLASSES = {
    "locmem": "locmem.LocMemCache",
    "redis": "redis.RedisCache",
    "memcached": "memcached.PyMemcacheCache",
    "database": "db.DatabaseCache",
    "file": "filebased.FileBasedCache",
}
BACKENDS = tuple(CLASSES)
#: Those that several processes share, with an ``add`` that has one winner.
SHARED_BACKENDS = ("redis", "memcached", "database")

DATABASE_ALIAS = "cache"


@dataclass(frozen=True, slots=True)
class CacheBackend:
    """A back end as settings; ``caches`` and ``databases`` are plain enough for JSON and another process."""

    name: str
    caches: dict[str, Any]
    databases: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What a process of its own passes to ``settings.configure`` beside ``DATABASES["default"]``."""
        routers = {"DATABASE_ROUTERS": ["support.caches.CacheRouter"]} if self.databases else {}
        return {"CACHES": self.caches, **routers}


class CacheRouter:
    """Sends the table of the database cache to the database of its own that the fixture made."""

    @staticmethod
    def _database(app_label: str) -> str | None:
        return DATABASE_ALIAS if app_label == "django_cache" else None

    def db_for_read(self, model: type, **hints: Any) -> str | None:
        return self._database(model._meta.app_label)  # type: ignore[attr-defined]

    db_for_write = db_for_read

    def allow_migrate(self, database: str, app_label: str, **hints: Any) -> bool | None:
        wanted = self._database(app_label)
        return None if wanted is None else database == wanted
