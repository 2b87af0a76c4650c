"""Detection of fragment caches, which store a part of a page and serve it to other visitors.

Django has no API for what encloses a template tag, so this module looks at the Python stack: whatever stores the output
of a tag also calls its rendering, directly or through includes, partials, blocks and macros.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from traceback import walk_stack
from typing import TYPE_CHECKING

from django.core.cache.backends.base import BaseCache
from django.template.base import Node, TokenType

if TYPE_CHECKING:
    from types import FrameType

_STORING = re.compile(r"cach|^compress(or|$)", re.IGNORECASE)


def stores_output(name: str) -> bool:
    """Return whether a tag, class or module is, by its name, one of a cache or of django-compressor."""
    return _STORING.search(name) is not None


def enclosing_cache() -> str | None:
    """Return the name of the innermost fragment cache around the caller, or ``None``.

    Caches are recognised by the names of their tags, classes and modules. ``get_or_set()`` of Django's caches and
    django CMS's placeholders are recognised as well. A cache in another thread or task is not on the stack.
    """
    for frame, _ in walk_stack(sys._getframe(1)):
        if _may_belong_to_cache(frame.f_code.co_qualname) and (name := _cache_of(frame)):
            return name
    return None


@lru_cache(maxsize=4096)
def _may_belong_to_cache(qualname: str) -> bool:
    """Return whether to look at a frame's local variables. Most frames are excluded, because that takes long."""
    return qualname.endswith((".render_annotated", "get_or_set", ".render_placeholder")) or stores_output(qualname)


def _cache_of(frame: FrameType) -> str | None:
    """Return the name of the fragment cache of which a frame runs a method, or ``None``."""
    owner: object = frame.f_locals.get("self")
    kind: type = type(owner)
    if isinstance(owner, Node):
        token = owner.token
        if token is not None and token.token_type is TokenType.BLOCK:  # and not {{ page.cached_teaser }}
            return _cache_name(kind, token.contents.partition(" ")[0])
        return _cache_name(kind)
    if frame.f_code.co_name == "render_placeholder":
        return "a placeholder of django CMS" if frame.f_locals.get("use_cache") else None
    if isinstance(owner, BaseCache) and frame.f_code.co_name.endswith("get_or_set"):
        return "cache.get_or_set()"
    return _cache_name(kind) if _is_jinja_extension(kind) else None


@lru_cache(maxsize=1024)
def _cache_name(owner: type, tag: str = "") -> str | None:
    names = [tag, *(name for base in owner.__mro__ for name in (base.__name__, base.__module__))]
    if any(stores_output(name) for name in names):
        return f"{{% {tag} %}}" if tag else owner.__name__
    return None


def _is_jinja_extension(owner: type) -> bool:
    # By name, because Jinja need not be installed.
    return any((base.__module__, base.__name__) == ("jinja2.ext", "Extension") for base in owner.__mro__)
