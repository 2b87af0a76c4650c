"""The manual says what the code does: tables, code blocks, numbers, versions and commands."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.template import Template
from django.test import RequestFactory, override_settings
from django.urls import include, path
from django.utils.module_loading import import_string
from docutils import nodes
from docutils.core import publish_doctree
from pytest_django import Settings
from readme_renderer import rst
from support.server import TokenServer

import hubspot_identify
from hubspot_identify import background, breaker, checks, deployment, tokens
from hubspot_identify.conf import DEFAULT_VISITOR, KEYS, Config, build_config
from hubspot_identify.sandbox import checks as sandbox_checks
from hubspot_identify.visitors import Visitor

ROOT = Path(__file__).parents[1]
DOTTED_PATH = r"[`\"](hubspot_identify(?!\.[EW]\d)(?:\.\w+)+)[`\"]"
BUILT = ("changelog", "contributing", "index", "reference", "security")
README = (ROOT / "README.rst").read_text("utf-8")
#: The manual; those of its pages that only Sphinx understands, or that only include others, aside.
PAGES = ["README.rst", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.rst") if path.stem not in BUILT)]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def matrix() -> dict[str, str]:
    """The supported Django versions by Python version, from the noxfile."""
    (value,) = (
        node.value
        for node in ast.parse((ROOT / "noxfile.py").read_text("utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MATRIX"
    )
    return ast.literal_eval(value)


def tree_of(page: str) -> nodes.document:
    """A page as docutils reads it; an error for whatever it complains of."""
    overrides = {"syntax_highlight": "none", "report_level": 2, "halt_level": 2}
    return publish_doctree((ROOT / page).read_text("utf-8"), settings_overrides=overrides)


def code_blocks(language: str, *pages: str) -> list[str]:
    """The code blocks in a language."""
    trees = [tree_of(page) for page in pages or ["README.rst"]]
    found = [block for tree in trees for block in tree.findall(nodes.literal_block)]
    return [block.astext() for block in found if language in block["classes"]]


def block_with(language: str, text: str) -> str:
    """The one code block of the README that holds a text."""
    (block,) = (block for block in code_blocks(language) if text in block)
    return block


def table_rows(corner: str) -> list[list[str]]:
    """The rows of the README's table whose first column has a heading; no two of them begin alike."""
    tables = {table.next_node(nodes.entry).astext(): table for table in publish_doctree(README).findall(nodes.table)}
    (body,) = tables[corner].findall(nodes.tbody)
    rows = [[entry.astext() for entry in row.children] for row in body.children]
    assert len({row[0] for row in rows}) == len(rows)
    return rows


def words_of(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.rst")))
def test_pages_render_without_warnings(page: str) -> None:
    """PyPI's own renderer makes HTML of every page, and has nothing to complain about."""
    warnings = io.StringIO()
    html = rst.render((ROOT / page).read_text("utf-8"), stream=warnings)
    assert warnings.getvalue() == ""
    assert html is not None


def test_settings_table_names_every_setting_its_type_and_default() -> None:
    """Each key of ``HUBSPOT_IDENTIFY`` has one row, with the type and the default that the code has."""
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
            assert (key, DEFAULT_VISITOR if text == "user_visitor" else ast.literal_eval(text)) == (key, expected)


def types_of(key: str, hint: Any) -> set[str]:
    """The types of a setting in the words of the table, which leaves out ``None`` and dotted paths."""
    parts = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    origins = {get_origin(part) or part for part in parts} - {NoneType}
    words = {Callable: "callable", Mapping: "dict"}
    kinds = {words.get(origin, getattr(origin, "__name__", "")) for origin in origins}
    return kinds - {"str"} if "callable" in kinds and key != "API_KEY" else kinds


@pytest.mark.parametrize("block", code_blocks("python", *PAGES))
def test_python_blocks_parse_and_name_what_exists(block: str) -> None:
    """Every Python block of the manual is Python, and imports and settings of ours that it has are there."""
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hubspot_identify"):
            module = import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name) or import_module(f"{node.module}.{alias.name}")
        if isinstance(node, ast.Assign | ast.AugAssign) and "HUBSPOT_IDENTIFY" in ast.unparse(node):
            for each in ast.walk(node.value):
                keys = each.keys if isinstance(each, ast.Dict) else []
                names = [key.value for key in keys if isinstance(key, ast.Constant) and str(key.value).isupper()]
                assert set(names) <= set(KEYS)


def test_table_of_checks_names_every_id() -> None:
    """The table has each id that the code has, and says which need ``--deploy``."""
    expected = {
        check: when
        for module, when in ((checks, "always"), (deployment, "--deploy"), (sandbox_checks, "--deploy"))
        for check in re.findall(r'id="(.+?)"', Path(module.__file__).read_text("utf-8"))
    }
    assert {name: when for name, when, _ in table_rows("Id")} == expected


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """What a page links or shows of this repository is in it."""
    text, folder = (ROOT / page).read_text("utf-8"), (ROOT / page).parent
    targets = re.findall(r"<([\w./-]+\.(?:rst|py))>`__", text) + re.findall(r"\.\. image:: (\S+)", text)
    targets += re.findall(r"\.\. include:: (\S+)", text)
    assert [target for target in targets if not (folder / target).is_file()] == []


def test_pictures_are_small_and_shown() -> None:
    """Each picture is in the manual, and none would keep a reader waiting."""
    shown = {path for page in PAGES for path in re.findall(r"images/([\w.-]+)", (ROOT / page).read_text("utf-8"))}
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs/images").iterdir()}
    assert set(sizes) == shown
    assert max(sizes.values()) < 150_000


def test_every_page_is_in_the_contents() -> None:
    """Sphinx's contents have each page of docs/, once."""
    listed = re.findall(r"^   (\w+)$", (ROOT / "docs/index.rst").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted({path.stem for path in (ROOT / "docs").glob("*.rst")} - {"index"})


@pytest.mark.skipif(not (shutil.which("node") or os.environ.get("CI")), reason="Node.js is not installed")
def test_javascript_blocks_parse(tmp_path: Path) -> None:
    """Every block of JavaScript in the manual is JavaScript."""
    blocks = code_blocks("javascript", *PAGES)
    assert blocks
    for block in blocks:
        file = tmp_path / "block.mjs"
        file.write_text(block, "utf-8")
        check = subprocess.run(["node", "--check", file], capture_output=True, text=True, check=False)
        assert (check.returncode, check.stderr) == (0, "")


def test_every_dotted_path_leads_somewhere() -> None:
    """A dotted path of ours in the manual can be imported."""
    paths = {path for page in PAGES for path in re.findall(DOTTED_PATH, (ROOT / page).read_text("utf-8"))}
    assert "hubspot_identify.middleware.IdentifiedPageMiddleware" in paths
    for dotted in paths:
        try:
            import_module(dotted)
        except ImportError:
            import_string(dotted)


@pytest.mark.parametrize("block", code_blocks("html+django", *PAGES))
def test_template_blocks_compile(block: str) -> None:
    """Django compiles every template of the manual."""
    Template(block)


@pytest.mark.parametrize("key", ["", "secret-of-the-site"])
def test_installation_settings_are_right(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """The settings to copy work without a key, by being off, and with one."""
    if key:
        monkeypatch.setenv("HUBSPOT_API_KEY", key)
        monkeypatch.setenv("HUBSPOT_PORTAL_ID", "123")
    else:
        monkeypatch.delenv("HUBSPOT_API_KEY", raising=False)
    names: dict[str, Any] = {}
    exec(block_with("python", "# settings.py"), names)
    config = build_config(names["HUBSPOT_IDENTIFY"])
    assert (config.enabled, config.api_key) == (bool(key), key)
    assert config.loader == ("https://js.hs-scripts.com/123.js" if key else None)


def test_installation_urls_are_right() -> None:
    """The URL pattern to copy routes the identity endpoint."""
    names: dict[str, Any] = {}
    exec(block_with("python", "# urls.py"), names)
    (pattern,) = names["urlpatterns"]
    assert pattern.resolve("hubspot/identity/") is not None


def test_sandbox_in_a_site_is_right() -> None:
    """The settings to copy for the stand-in fit behind those of the installation, and its URLs are there."""
    names: dict[str, Any] = {"path": path, "include": include, "urlpatterns": []}
    exec(block_with("python", "# settings.py"), names)
    exec(block_with("python", 'hubspot_identify.sandbox"]'), names)
    assert names["INSTALLED_APPS"] == ["hubspot_identify", "hubspot_identify.sandbox"]
    config = build_config(names["HUBSPOT_IDENTIFY"])
    (api, loader) = (urlsplit(address or "").path for address in (config.base_url + config.token_path, config.loader))
    with override_settings(DEBUG=True):
        exec(block_with("python", "hubspot_identify.sandbox.urls"), names)
    (pattern,) = names["urlpatterns"]
    assert [pattern.resolve(address[1:]).url_name for address in (api, loader)] == [None, "loader"]


def test_use_from_python_runs(settings: Settings, token_server: TokenServer) -> None:
    """The block on the services runs from top to bottom."""
    settings.HUBSPOT_IDENTIFY = {**settings.HUBSPOT_IDENTIFY, "BASE_URL": token_server.url}
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    names: dict[str, Any] = {"request": request}
    exec(block_with("python", "services.get_token"), names)
    assert token_server.emails_by_token()[names["token"].value] == "ada@example.com"


def test_numbers_are_those_of_the_code() -> None:
    """Ages, limits and pauses that the README tells are the constants."""
    said = words_of(README)
    for words in (
        f"after {breaker.FAILURES} failures of at least {breaker.VISITORS} visitors in {breaker.FAILURE_WINDOW:g} s",
        f"for {breaker.COOL_DOWN:g} s, doubling up to {breaker.LONGEST_COOL_DOWN / 60:g} min",
        f"after about {tokens.RENEW_AFTER / tokens.HOUR:g} of its 12 hours",
        f"for up to {tokens.DEAD_AFTER / tokens.HOUR:g} hours",
    ):
        assert words in said
    assert (background.SLOTS, "one of two background threads" in said) == (2, True)


def test_versions_agree() -> None:
    """The README, the classifiers, the floors and GitHub's workflow name the versions that are tested."""
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
    listed = ["{}, {} and {}".format(*versions) for versions in (djangos, pythons)]
    assert f"Django {listed[0]} with Python {listed[1]}" in words_of(README)
    workflow = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    assert re.findall(r"^ +(3\.\d+)$", workflow, re.MULTILINE) == pythons[::-1]


def test_changelog_begins_with_this_version() -> None:
    """The newest section of the changelog is the version of the code."""
    text = (ROOT / "CHANGELOG.rst").read_text("utf-8")
    document = publish_doctree(text, settings_overrides={"doctitle_xform": False})
    _, newest, *_ = document.findall(nodes.section)
    assert newest[0].astext().partition(" ")[0] == hubspot_identify.__version__


@pytest.mark.parametrize(
    ("command", "extra"),
    [(".venv/bin/pytest", "test"), (".venv/bin/python example_project/manage.py demo", "demo")],
)
def test_the_two_commands_stand_near_the_top(command: str, extra: str) -> None:
    """One line runs the demo, one the tests; each makes its own environment with an extra that exists."""
    line = f'    python3 -m venv .venv && .venv/bin/pip install -e ".[{extra}]" && {command}'
    assert README.splitlines()[:40].count(line) == 1
    assert extra in PYPROJECT["project"]["optional-dependencies"]


def test_contributors_find_the_sessions_they_are_told_of() -> None:
    """Every nox session that CONTRIBUTING names is in the noxfile."""
    named = re.findall(r"nox -s (\w+)", (ROOT / "CONTRIBUTING.rst").read_text("utf-8"))
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    sessions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    assert named
    assert set(named) <= sessions
