"""Django's cache back ends, configured for tests in this process and in processes that it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: The class of each back end below ``django.core.cache.backends``, by its name in the test suite.
CLASSES = {
    "locmem": "locmem.LocMemCache",
    "redis": "redis.RedisCache",
    "memcached": "memcached.PyMemcacheCache",
    "database": "db.DatabaseCache",
    "file": "filebased.FileBasedCache",
}
BACKENDS = tuple(CLASSES)
#: The back ends that processes share and whose ``add`` is atomic.
SHARED_BACKENDS = ("redis", "memcached", "database")

DATABASE_ALIAS = "cache"


@dataclass(frozen=True, slots=True)
class CacheBackend:
    """The settings of a back end. ``caches`` and ``databases`` can be passed to another process as JSON."""

    name: str
    caches: dict[str, Any]
    databases: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What another process passes to ``settings.configure`` together with ``DATABASES["default"]``."""
        routers = {"DATABASE_ROUTERS": ["support.caches.CacheRouter"]} if self.databases else {}
        return {"CACHES": self.caches, **routers}


class CacheRouter:
    """Routes the table of the database cache to the database that the fixture created for it."""

    @staticmethod
    def _database(app_label: str) -> str | None:
        return DATABASE_ALIAS if app_label == "django_cache" else None

    def db_for_read(self, model: type, **hints: Any) -> str | None:
        return self._database(model._meta.app_label)  # type: ignore[attr-defined]

    db_for_write = db_for_read

    def allow_migrate(self, database: str, app_label: str, **hints: Any) -> bool | None:
        wanted = self._database(app_label)
        return None if wanted is None else database == wanted
