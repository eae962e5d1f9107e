"""Modules depend on each other in one direction, so do packages, and no test file imports another."""

import ast
from pathlib import Path

from support.process import ROOT


def names_imported(file: Path) -> set[str]:
    """Modules that a file asks for anywhere in it, and names out of them, which may be modules too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


def modules() -> dict[str, set[str]]:
    """By module of cuchar, the others that it imports; cuchar/__init__.py imports none before a name is asked for."""
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (ROOT / "cuchar").rglob("*.py")
        if file != ROOT / "cuchar/__init__.py"
    }
    return {name: (names_imported(file) & files.keys()) - {name} for name, file in files.items()}


def packages() -> dict[str, set[str]]:
    """By package, the others that its modules import. A module that is in no package is counted as one itself."""
    found: dict[str, set[str]] = {}
    for name, others in modules().items():
        own = name.split(".")[1]
        found.setdefault(own, set()).update({other.split(".")[1] for other in others} - {own})
    return found


def in_circles(graph: dict[str, set[str]]) -> list[str]:
    """What lies in a circle or leads to one: what is left when names that lead nowhere are removed again and again."""
    left = {name: others & graph.keys() for name, others in graph.items()}
    while ends := {name for name, others in left.items() if not others}:
        left = {name: others - ends for name, others in left.items() if name not in ends}
    return sorted(left)


def test_no_circle_between_modules_or_packages():
    assert len(modules()) > 70 and len(packages()) > 25
    assert in_circles(modules()) == in_circles(packages()) == []


def test_circles_are_seen():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert in_circles({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]


def test_devices_know_no_engine_and_engines_know_no_command():
    graph = packages()
    assert graph["devices"] == {"errors", "sizes", "wording"}
    assert not graph["engines"] & {"cli", "api", "runs", "training", "model", "bench", "reports", "terminal"}
    assert {name for name, others in graph.items() if "bench" in others} == {"cli"}


def test_no_test_file_imports_another():
    files = [*(ROOT / "tests").rglob("*.py")]
    others = {file.stem for file in files if file.name.startswith("test_")} | {"conftest"}
    assert len(others) > 40
    for file in files:
        assert not {part for name in names_imported(file) for part in name.split(".")} & others, file
