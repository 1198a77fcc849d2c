"""The layers of docs/design.md: imports point up its table, and no two modules import each other."""

import ast
import re
from graphlib import TopologicalSorter

from conftest import ROOT


def modules():
    """Paths of the project's modules, by name."""
    paths = [p for folder in ("psr_ray", "actors", "jobs") for p in (ROOT / folder).rglob("*.py")]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


def imports(path, known):
    """The project's modules that a module imports, at its top or within its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def layers():
    """The packages of the table, from the bottom layer up."""
    table = (ROOT / "docs" / "design.md").read_text().partition("## Layers")[2].partition("## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)


def test_every_module_imports_only_lower_layers():
    known, order = modules(), layers()

    def layer(name):
        found = [i for i, package in enumerate(order) if f"{name}.".startswith(f"{package}.")]
        return found[0] if found else None

    assert [name for name in known if layer(name) is None] == ["psr_ray"]
    wrong = [
        f"{name} imports {other}"
        for name, path in known.items()
        for other in imports(path, known)
        if other in known and layer(name) is not None and layer(other) > layer(name)
    ]
    assert wrong == []


def test_no_two_modules_import_each_other():
    known = modules()
    graph = {
        name: {other for other in imports(path, known) if other in known and other != name}
        for name, path in known.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError with the circle
