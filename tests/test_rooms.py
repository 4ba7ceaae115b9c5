"""The arrows between files: application to library, a room to those below it, and no way back to a file."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "geoloss_kernels"
ROOMS = (
    "imaging",
    "subjects",
    "preprocessing",
    "training",
    "prediction",
    "evaluation",
    "lga",
    "reporting",
    "datasets",
    "demo",
    "study",
)
"""From the ground up."""


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & FILES.keys() or {node.module}
    return found & FILES.keys() - {module_of(path)}


def application() -> dict[str, set[str]]:
    """File -> files of the application that it imports."""
    prefix = "geoloss_kernels.lesions"
    return {
        name: {target for target in imports_of(path) if target.startswith(prefix)}
        for name, path in FILES.items()
        if name.startswith(prefix)
    }


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and parts[2] in ROOMS else None


def test_no_file_of_the_application_imports_itself_by_way_of_others() -> None:
    graph = application()
    assert len(graph) > 60
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


def test_rooms_import_only_what_lies_below_them() -> None:
    upwards = [
        (name, target)
        for name, targets in application().items()
        for target in targets
        if (room := room_of(name)) and (below := room_of(target)) and ROOMS.index(below) > ROOMS.index(room)
    ]
    assert upwards == []
    assert {room_of(name) for name in application()} == {None, *ROOMS}


def test_the_library_does_not_know_the_application() -> None:
    entrance = "geoloss_kernels.__main__"
    known = {
        name
        for name, path in FILES.items()
        if not name.startswith("geoloss_kernels.lesions")
        and name != entrance
        and any(target.startswith("geoloss_kernels.lesions") for target in imports_of(path))
    }
    assert known == set()
