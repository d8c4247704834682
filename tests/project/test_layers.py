"""Imports go down only, no module imports itself in a circle, and folders and files stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = (
    ("cgclora",),
    ("evals",),
    ("ui",),
)
"""Packages from the ground up: each may import what stands before it, and itself."""

LIBRARY = (
    ("config",),
    ("storage",),
    ("layer",),
    ("models",),
    ("data",),
    ("adapter",),
    ("inference",),
    ("training", "serving", "convert", "analysis"),
    ("cli",),
    ("__main__",),
)
"""The same within `cgclora`."""


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    paths = [path for floor in FLOORS for path in (ROOT / floor[0]).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, paths, strict=True)}


MODULES = modules()


def imports(name: str) -> set[str]:
    """The product's modules that a module imports, at its top, in a function or for types alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & MODULES.keys()) - {name}


def level(floors: tuple[tuple[str, ...], ...], name: str) -> int:
    return next(number for number, floor in enumerate(floors) if name in floor)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_go_down_only(name):
    package, _, rest = name.partition(".")
    for other in imports(name):
        target, _, other_rest = other.partition(".")
        assert level(FLOORS, target) <= level(FLOORS, package), other
        if package == target == "cgclora" and rest and other_rest:
            ours, theirs = rest.split(".")[0], other_rest.split(".")[0]
            assert level(LIBRARY, theirs) <= level(LIBRARY, ours), other


def test_no_modules_import_one_another_in_a_circle():
    arrows = {name: imports(name) for name in MODULES}
    while leaves := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}
    assert sorted(arrows) == []


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES.values()}))
def test_a_folder_has_at_most_a_dozen_entries(package):
    entries = [
        path.name
        for path in package.iterdir()
        if path.name not in {"__init__.py", "__main__.py", "__pycache__"}
    ]
    assert len(entries) <= 12
