"""The import rule: rooms import only rooms before them; detectron2 stays in d2/; light imports stay light."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "scaleprior"
FLOOR = {
    *("_lazy", "_version", "plugins", "ap_names", "checking", "errors", "files", "home", "progress", "provenance"),
    *("wording", "config", "pages", "console", "locks", "spreadsheets", "terminal"),
}
ORDER = ["corpus", "backbones", "training"]
SIDE_BY_SIDE = ["pretrain", "detect"]  # neither imports the other
ALLOWED = {
    **{room: FLOOR | set(ORDER[:i]) for i, room in enumerate(ORDER)},
    **{room: FLOOR | set(ORDER) for room in SIDE_BY_SIDE},
    "laws": FLOOR - {"config"},
    "study": FLOOR | set(ORDER) | set(SIDE_BY_SIDE) | {"laws"},
    "d2": FLOOR | set(ORDER) | set(SIDE_BY_SIDE),
    "config": FLOOR,
    "pages": FLOOR,
}
HEAVY = ["torch", "torchvision", "timm", "cv2", "matplotlib", "scipy", "pyarrow", "duckdb", "pandas"]


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of everything a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_the_rooms_before_it(room: str) -> None:
    for path in (f for f in FILES if room_of(f) == room):
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == "scaleprior" and len(parts) > 1 and (PACKAGE / parts[1]).exists():
                assert parts[1] in ALLOWED[room] | {room}, f"{path.relative_to(PACKAGE)} imports {name}"


def test_nobody_inside_comes_in_by_the_front_door() -> None:
    """``scaleprior/__init__.py`` is for users: it names the rooms, so a room that imported it would stand on all."""
    for path in FILES:
        if room_of(path) not in ("__init__", "commands"):
            source = path.read_text(encoding="utf-8")
            names = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))]
            bare = [n for n in names if isinstance(n, ast.ImportFrom) and n.module == "scaleprior"]
            bare += [n for n in names if isinstance(n, ast.Import) and "scaleprior" in [a.name for a in n.names]]
            assert not bare, f"{path.relative_to(PACKAGE)} imports the package itself, line {bare[0].lineno}"


def test_the_floor_stands_on_nothing_but_itself() -> None:
    for path in (PACKAGE / f"{name}.py" for name in FLOOR - {"config", "pages"}):
        for name in imported_modules(path):
            if name.startswith("scaleprior."):
                assert name.split(".")[1] in FLOOR, f"{path.name} imports {name}"


def test_only_the_plugin_imports_detectron2() -> None:
    for path in FILES:
        if room_of(path) != "d2":
            # omegaconf comes with it
            assert not [n for n in imported_modules(path) if n.split(".")[0] in ("detectron2", "omegaconf")], path


def test_nobody_imports_the_plugin_but_its_door() -> None:
    """It announces its engine by an entry point; ``scaleprior.model_zoo`` is its one public name outside."""
    for path in FILES:
        if room_of(path) not in ("d2", "model_zoo"):
            assert not [n for n in imported_modules(path) if n.startswith("scaleprior.d2")], path


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in FILES}


def defining_module(module: str, name: str) -> str:
    """The module that ``from module import name`` takes its code from, behind packages that only hand names on."""
    if f"{module}.{name}" in MODULES:
        return f"{module}.{name}"
    if MODULES[module].name == "__init__.py":
        for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
                return defining_module(str(node.module), name) if node.module in MODULES else module
    return module


def test_there_is_no_circle() -> None:
    """Neither among rooms nor inside one; imports for types and inside functions count."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if path.name != "__init__.py":  # they hand on what their own modules hold
            names = [name.rpartition(".") for name in imported_modules(path) if name.startswith("scaleprior.")]
            found = {n if n in MODULES else defining_module(m, last) for m, _, last in names for n in [f"{m}.{last}"]}
            graph[module] = {n for n in found if n != module and MODULES[n].name != "__init__.py"}
    order = graphlib.TopologicalSorter(graph)
    try:
        order.prepare()
    except graphlib.CycleError as e:
        pytest.fail(f"imports go round: {' <- '.join(e.args[1])}")


def test_corpus_does_not_import_torch() -> None:
    for path in (f for f in FILES if room_of(f) == "corpus"):
        assert not [n for n in imported_modules(path) if n.split(".")[0] in ("torch", "torchvision", "timm")], path


def test_laws_import_no_torch() -> None:
    for path in (f for f in FILES if room_of(f) == "laws"):
        assert not [n for n in imported_modules(path) if n.split(".")[0] in ("torch", "torchvision")], path


def test_no_module_is_longer_than_400_lines() -> None:
    long = {str(f.relative_to(PACKAGE)): n for f in FILES if (n := len(f.read_text().splitlines())) > 400}
    assert not long


LIGHT = [
    "scaleprior",
    "scaleprior.cli",
    "scaleprior.study",
    "scaleprior.corpus",
    "scaleprior.laws",
    "scaleprior.config",
]


@pytest.mark.parametrize("statement", [*(f"import {m}" for m in LIGHT), "HELP"])
def test_start_up_imports_nothing_heavy(statement: str) -> None:
    """`scaleprior --help` answers at once: what it imports is measured, not how long it takes."""
    if statement == "HELP":
        statement = "import scaleprior.cli\ntry:\n    scaleprior.cli.main(['--help'])\nexcept SystemExit:\n    pass"
    code = f"import sys, json\n{statement}\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = set(json.loads(run.stdout.splitlines()[-1]))
    assert "scaleprior" in loaded
    assert not loaded.intersection(HEAVY)
