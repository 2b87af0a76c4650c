"""The manual agrees with the code: its tables, code blocks, versions and commands."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import pytest
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth.models import AnonymousUser
from django.core.checks import run_checks
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.template import Template
from django.test import RequestFactory, override_settings
from django.urls import include, path, re_path
from django.utils.module_loading import import_string
from docutils import nodes
from docutils.core import publish_doctree
from pytest_django import Settings
from readme_renderer import rst
from support.manual import ROOT, code_blocks, text_of, tree_of
from support.server import TokenServer
from support.site import urlconf

import hubspot_identify
from hubspot_identify.checks import settings as checks
from hubspot_identify.conf import KEYS, Config, build_config
from hubspot_identify.visitors import Visitor

DOTTED_PATH = r"[`\"](hubspot_identify(?!\.[EIW]\d)(?:\.\w+)+)[`\"]"
BUILT = ("changelog", "contributing", "index", "reference", "security")
README = text_of("README")
#: The pages of the manual, without those that only Sphinx can parse and those that only include other pages.
PAGES = ["README", *sorted(f"docs/{path.stem}" for path in (ROOT / "docs").glob("*.rst") if path.stem not in BUILT)]
NOXFILE = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def matrix() -> dict[str, str]:
    """The supported Django versions by Python version, from the noxfile."""
    (value,) = (
        node.value for node in NOXFILE.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MATRIX"
    )
    versions: dict[str, str] = ast.literal_eval(value)
    return versions


def names_in(block: str) -> set[str]:
    """The names that a block of Python assigns, adds to or imports."""
    nodes_ = list(ast.walk(ast.parse(block)))
    stored = {node.id for node in nodes_ if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {alias.name for node in nodes_ if isinstance(node, ast.ImportFrom) for alias in node.names}


def block_with(*names: str) -> str:
    """The first Python block of the README that assigns, adds to or imports all of these names."""
    return next(block for block in code_blocks("README") if names_in(block) >= set(names))


def table_rows(corner: str) -> list[list[str]]:
    """The rows of the README's table whose first column has this heading. No two begin with the same text."""
    tables = {table.next_node(nodes.entry).astext(): table for table in tree_of("README").findall(nodes.table)}
    (body,) = tables[corner].findall(nodes.tbody)
    rows = [[entry.astext() for entry in row.children] for row in body.children]
    assert len({row[0] for row in rows}) == len(rows)
    return rows


def test_pages_render_without_warnings() -> None:
    """The renderer of the package index makes HTML of every page, without a warning."""
    for page in ROOT.glob("*.rst"):
        warnings = io.StringIO()
        html = rst.render(page.read_text("utf-8"), stream=warnings)
        assert (page.name, warnings.getvalue()) == (page.name, "")
        assert html is not None


def test_settings_table_agrees_with_the_code() -> None:
    """Each key of ``HUBSPOT_IDENTIFY`` has one row, with its type and its default."""
    rows = {key: (kind, default) for key, kind, default, _ in table_rows("Key")}
    assert sorted(rows) == sorted(KEYS)
    hints = get_type_hints(Config, localns={"HttpRequest": HttpRequest, "Visitor": Visitor})
    in_words = {"API_KEY": "required", "EMAIL_VERIFIED": "required", "LOADER_URL": "from REGION and PORTAL_ID"}
    config = Config()
    for key, (kind, text) in rows.items():
        default = getattr(config, key.lower())
        assert (key, set(kind.split(" or "))) == (key, types_of(key, hints[key.lower()]))
        if key in in_words:
            assert (key, text) == (key, in_words[key])
            assert not default
        else:
            expected = dict(default) if isinstance(default, Mapping) else default
            assert (key, config.visitor if text == "user_visitor" else ast.literal_eval(text)) == (key, expected)


def types_of(key: str, hint: Any) -> set[str]:
    """The types of a setting in the words of the table, which leaves out ``None`` and dotted paths."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    origins = {get_origin(part) or part for part in parts} - {NoneType}
    words = {Callable: "callable", Mapping: "dict"}
    kinds = {words.get(origin, getattr(origin, "__name__", "")) for origin in origins}
    return kinds - {"str"} if "callable" in kinds and key != "API_KEY" else kinds


def test_python_blocks_parse_and_name_what_exists() -> None:
    """Every Python block of the manual is valid, and the app has each name it imports and each setting it uses."""
    for node in (node for page in PAGES for block in code_blocks(page) for node in ast.walk(ast.parse(block))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hubspot_identify"):
            module = import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or import_module(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Assign | ast.AugAssign) and "HUBSPOT_IDENTIFY" in ast.unparse(node):
            for each in ast.walk(node.value):
                keys = each.keys if isinstance(each, ast.Dict) else []
                names = [key.value for key in keys if isinstance(key, ast.Constant) and str(key.value).isupper()]
                assert set(names) <= set(KEYS)


OWN_URLS = path("", include("hubspot_identify.urls"))
BACKENDS = "django.core.cache.backends"
#: Settings that provoke every check between them.
ALL_FAULTS: list[dict[str, Any]] = [
    {"HUBSPOT_IDENTIFY": {"TIMEOUT": 0, "WIDGET": {"loadImmediately": "yes", "colour": "red"}}},
    {
        "HUBSPOT_IDENTIFY": {
            "EMAIL_VERIFIED": True,
            "ACCOUNTS": {
                "deferred": {"API_KEY": "k", "DELIVERY": "deferred", "AUTH_SCHEME": "hapikey", "PORTAL_ID": ""},
                "unidentified": {"API_KEY": "k", "EMAIL_VERIFIED": False},
                "memory": {"API_KEY": "k"},
                "database": {"API_KEY": "k", "CACHE": "database"},
                "redis": {"API_KEY": "k", "CACHE": "redis"},
            },
        },
        "CACHES": {
            "default": {"BACKEND": f"{BACKENDS}.locmem.LocMemCache"},
            "database": {"BACKEND": f"{BACKENDS}.db.DatabaseCache", "LOCATION": "a_table"},
            "redis": {"BACKEND": f"{BACKENDS}.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1"},
        },
        "INSTALLED_APPS": ["hubspot_identify"],
        "MIDDLEWARE": ["django.middleware.security.SecurityMiddleware"],
        "ROOT_URLCONF": urlconf(),
        "SECURE_REFERRER_POLICY": "same-origin",
        "STATIC_URL": None,
    },
    {
        "HUBSPOT_IDENTIFY": {"API_KEY": "k", "EMAIL_VERIFIED": True},
        "ROOT_URLCONF": urlconf(
            re_path("", lambda request: HttpResponse()), path("", include("hubspot_identify.urls"))
        ),
    },
    {"HUBSPOT_IDENTIFY": {"ENABLED": False}},
    {
        "AUTH_USER_MODEL": "users.NoEmail",
        "HUBSPOT_IDENTIFY": {"API_KEY": "k", "EMAIL_VERIFIED": True, "ENABLED": lambda request: True},
        "INSTALLED_APPS": [*django_settings.INSTALLED_APPS, "users"],
        "TEMPLATES": [{"BACKEND": "django.template.backends.jinja2.Jinja2"}],
    },
]


def test_table_of_checks_lists_every_check(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites with all faults between them get each check of the table, and no other; some only with ``--deploy``."""
    monkeypatch.setitem(sys.modules, "uwsgi", ModuleType("uwsgi"))
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
    found: dict[bool, set[str]] = {False: set(), True: set()}
    for faults in ALL_FAULTS:
        with monkeypatch.context() as patch, override_settings(**faults):
            installed = [*django_settings.INSTALLED_APPS, "allauth.account", "cms"]
            patch.setattr(apps, "is_installed", installed.__contains__)
            for deploy in found:
                messages = run_checks(tags=[checks.TAG], include_deployment_checks=deploy)
                found[deploy] |= {str(message.id) for message in messages}
    rows = {name: when for name, when, _ in table_rows("Id") if name.startswith("hubspot_identify.")}
    assert rows == {name: "always" if name in found[False] else "--deploy" for name in found[True]}


def test_links_to_files_lead_to_files() -> None:
    """Each file that a page links, shows or includes is in the repository."""
    for page in PAGES:
        text, folder = text_of(page), (ROOT / page).parent
        targets = re.findall(r"<([\w./-]+\.(?:rst|py))>`__", text)
        targets += re.findall(r"\.\. (?:image|include):: (\S+)", text)
        assert [target for target in targets if not (folder / target).is_file()] == []


def test_pictures_are_small_and_used() -> None:
    """Each picture is shown on a page, and none has more than 150 kB."""
    shown = {path for page in PAGES for path in re.findall(r"images/([\w.-]+)", text_of(page))}
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/images").iterdir()}
    assert set(sizes) == shown
    assert max(sizes.values()) < 150_000


def test_every_page_is_in_the_contents() -> None:
    """Sphinx's table of contents has each page of docs/ once."""
    listed = re.findall(r"^   (\w+)$", text_of("docs/index"), re.MULTILINE)
    assert sorted(listed) == sorted({path.stem for path in (ROOT / "docs").glob("*.rst")} - {"index"})


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("node") or os.environ.get("CI")), reason="Node.js is not installed")
def test_javascript_blocks_parse(tmp_path: Path) -> None:
    """Every JavaScript block of the manual is valid."""
    blocks = [block for page in PAGES for block in code_blocks(page, "javascript")]
    assert blocks
    for block in blocks:
        file = tmp_path / "block.mjs"
        file.write_text(block, "utf-8")
        check = subprocess.run(["node", "--check", file], capture_output=True, text=True, check=False)
        assert (check.returncode, check.stderr) == (0, "")


def test_dotted_paths_can_be_imported() -> None:
    """The app has each dotted path that the manual names."""
    paths = {path for page in PAGES for path in re.findall(DOTTED_PATH, text_of(page))}
    assert "hubspot_identify.middleware.IdentifiedPageMiddleware" in paths
    for dotted in paths:
        try:
            import_module(dotted)
        except ImportError:
            import_string(dotted)


def test_template_blocks_compile() -> None:
    """Django compiles every template of the manual."""
    for page in PAGES:
        for block in code_blocks(page, "html+django"):
            Template(block)


@pytest.mark.parametrize("key", ["", "secret-of-the-site"])
def test_settings_of_the_quick_start_work(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """They enable the chat if the environment has a key, and disable it otherwise."""
    if key:
        monkeypatch.setenv("HUBSPOT_API_KEY", key)
        monkeypatch.setenv("HUBSPOT_PORTAL_ID", "123")
    else:
        monkeypatch.delenv("HUBSPOT_API_KEY", raising=False)
    names: dict[str, Any] = {}
    exec(block_with("HUBSPOT_IDENTIFY", "INSTALLED_APPS"), names)
    config = build_config(names["HUBSPOT_IDENTIFY"])
    assert (config.enabled, config.api_key) == (bool(key), key)
    assert config.loader == ("https://js.hs-scripts.com/123.js" if key else None)


def test_urls_of_the_quick_start_lead_to_the_endpoint() -> None:
    """The URL pattern to copy routes the identity endpoint."""
    names: dict[str, Any] = {}
    exec(block_with("include", "urlpatterns"), names)
    (pattern,) = names["urlpatterns"]
    assert pattern.resolve("hubspot/identity/") is not None


def test_settings_of_the_sandbox_extend_those_of_the_quick_start() -> None:
    """After both blocks, the app calls the sandbox and loads its script, and the sandbox's URLs are routed."""
    names: dict[str, Any] = {"path": path, "include": include, "urlpatterns": []}
    exec(block_with("HUBSPOT_IDENTIFY", "INSTALLED_APPS"), names)
    with override_settings(DEBUG=True):
        for block in (block for block in code_blocks("README") if "hubspot_identify.sandbox" in block):
            exec(block, names)
    assert names["INSTALLED_APPS"] == ["hubspot_identify", "hubspot_identify.sandbox"]
    config = build_config(names["HUBSPOT_IDENTIFY"])
    (api, loader) = (urlsplit(address or "").path for address in (config.base_url + config.token_path, config.loader))
    (pattern,) = names["urlpatterns"]
    assert [pattern.resolve(address[1:]).url_name for address in (api, loader)] == [None, "loader"]


def test_use_from_python_runs(settings: Settings, token_server: TokenServer) -> None:
    """The block about the services runs from top to bottom."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    names: dict[str, Any] = {"request": request}
    exec(block_with("services", "token"), names)
    assert token_server.emails_by_token()[names["token"].value] == "ada@example.com"


def test_versions_agree() -> None:
    """The classifiers, the lowest versions and the workflow name the versions of the test matrix."""
    pythons, djangos = list(matrix()), list(matrix().values())
    project = PYPROJECT["project"]
    by_prefix = {
        "Programming Language :: Python :: 3.": [version.partition(".")[2] for version in pythons],
        "Framework :: Django :: ": djangos,
    }
    for prefix, versions in by_prefix.items():
        named = [line.removeprefix(prefix) for line in project["classifiers"] if line.startswith(prefix)]
        assert named == versions
    assert project["requires-python"] == f">={pythons[0]}"
    assert f"django>={djangos[0]}" in project["dependencies"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert re.findall(r"^ +(3\.\d+)$", workflow, re.MULTILINE) == pythons[::-1]


def test_changelog_begins_with_this_version() -> None:
    """The first section of the changelog is about the version of the code."""
    text = text_of("CHANGELOG")
    document = publish_doctree(text, settings_overrides={"doctitle_xform": False})
    _, newest, *_ = document.findall(nodes.section)
    assert newest[0].astext().partition(" ")[0] == hubspot_identify.__version__


@pytest.mark.parametrize(
    ("command", "extra"),
    [(".venv/bin/pytest", "test"), (".venv/bin/python example_project/manage.py demo", "demo")],
)
def test_readme_has_one_command_for_the_demo_and_one_for_the_tests(command: str, extra: str) -> None:
    """Each is one line, which creates an environment with an existing extra."""
    line = f'    python3 -m venv .venv && .venv/bin/pip install -e ".[{extra}]" && {command}'
    assert README.splitlines().count(line) == 1
    assert extra in PYPROJECT["project"]["optional-dependencies"]


def test_nox_sessions_of_contributing_exist() -> None:
    """The noxfile has each session that CONTRIBUTING names."""
    named = re.findall(r"nox -s (\w+)", text_of("CONTRIBUTING"))
    sessions = {node.name for node in NOXFILE.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    assert named
    assert set(named) <= sessions
