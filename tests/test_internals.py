"""The page on the internals agrees with the package: its layers, functions and constants."""

from __future__ import annotations

import inspect
import pkgutil
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from docutils import nodes
from support.manual import ROOT, table_of, tree_of

import hubspot_identify

PAGE = "docs/internals"
PACKAGE = Path(hubspot_identify.__file__).parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
MODULES = {
    module.name.removeprefix("hubspot_identify."): import_module(module.name)
    for module in pkgutil.walk_packages(hubspot_identify.__path__, "hubspot_identify.")
}
#: Packages and modules whose numbers concern only themselves.
OUTSIDE_OF_CORE = ("checks", "doctor", "management", "sandbox", "testing")
UNITS = {"s": 1, "min": 60, "h": 3600, "%": 0.01, "KiB": 1024}


def numbers(value: object) -> list[float]:
    """Return the numbers of a constant in ascending order: one, or those of a collection, or none if it has others."""
    values: list[Any] = [*value] if isinstance(value, tuple | frozenset) else [value]
    return sorted(values) if all(type(each) in (int, float) for each in values) else []


#: The numbers of the core by module and name, collected before fixtures change any of them.
CONSTANTS: dict[tuple[str, str], Any] = {
    (module, name): value
    for module, namespace in MODULES.items()
    for name, value in vars(namespace).items()
    if name.isupper() and numbers(value) and module.partition(".")[0] not in OUTSIDE_OF_CORE
}


def tables() -> dict[tuple[str, str], list[list[str]]]:
    """Return the rows of the page's tables by the first two cells of their heads."""
    heads = [[cell.astext() for cell in head[0].children] for head in tree_of(PAGE).findall(nodes.thead)]
    assert len({tuple(head) for head in heads}) == len(heads)
    return {(head[0], head[1]): table_of(PAGE, number) for number, head in enumerate(heads)}


def numbers_in(text: str) -> list[float]:
    """Return the numbers in a cell such as ``5 s, 30 s`` or ``64 KiB``, in seconds, bytes or as fractions."""
    found = re.findall(r"([\d.]+) ?([A-Za-z%]*)", text)
    return sorted(float(number) * UNITS.get(unit, 1) for number, unit in found)


@pytest.mark.parametrize("container", ["hubspot_identify", "_tokens", "_hubspot"])
def test_modules_are_listed_from_the_top_layer_down(container: str) -> None:
    """The table of a package has a row for each module in its import contract, in the order of the layers."""
    (layers,) = [
        contract["layers"]
        for contract in CONTRACTS
        if contract["type"] == "layers" and contract["containers"][0].endswith(container)
    ]
    layer_of = {name: number for number, layer in enumerate(layers) for name in layer.split(" | ")}
    listed = [name for name, _ in tables()[container, "Purpose"]]
    assert sorted(listed) == sorted(layer_of)
    assert listed == sorted(listed, key=layer_of.__getitem__)


def test_every_constant_has_one_row_with_its_value() -> None:
    """A constant is in the table of one module that has it, with its present value. There are no other rows."""
    rows = {
        (module, name): numbers_in(value)
        for (module, second), table in tables().items()
        if second == "Value" and not module.endswith(".js")
        for name, value, _ in table
    }
    assert rows == {key: pytest.approx(numbers(CONSTANTS.get(key))) for key in rows}
    # A constant that another module imports is the same object there.
    identities = {key: (key[1], id(value)) for key, value in CONSTANTS.items()}
    assert sorted(identities[key] for key in rows) == sorted({*identities.values()})


def test_functions_exist() -> None:
    """The package has each function that the page names with its module or class, such as ``views.identity()``."""
    named = {literal.astext() for literal in tree_of(PAGE).findall(nodes.literal)}
    functions = {name for name in named if re.fullmatch(r"\w+\.\w+\(\)", name)}
    owners: list[tuple[str, object]] = [(path.rpartition(".")[2], module) for path, module in MODULES.items()]
    for module in MODULES.values():
        owners += inspect.getmembers(module, inspect.isclass)
    existing = {f"{name}.{function}()" for name, owner in owners for function in dir(owner)}
    assert "views.identity()" in functions
    assert functions - existing == set()


def test_modules_named_in_contributing_exist() -> None:
    """A newcomer finds every place that the table names."""
    places = [place for _, place in table_of("CONTRIBUTING", 0)]
    paths = {path for place in places for path in re.findall(r"[\w/]+(?:\.py|\.js|/)", place)}
    assert len(paths) > 10
    assert [path for path in paths if not any((folder / path).exists() for folder in (PACKAGE, ROOT))] == []
