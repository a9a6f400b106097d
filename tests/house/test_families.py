"""Nobody outside ``backbones/trunks/`` asks which family a trunk is of: who wants to know something asks the family."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scaleprior.backbones.trunks import families, known_models

PACKAGE = Path(__file__).resolve().parents[2] / "scaleprior"
TRUNKS = PACKAGE / "backbones" / "trunks"
SPECS = {
    node.name
    for path in TRUNKS.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef) and node.name.endswith("Spec")
} - {"TrunkSpec"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if TRUNKS not in path.parents]


def questions(source: str) -> list[str]:
    """Lines that tell families apart: by a spec's class, by a part of a model's name, or by the family's name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "type"):
            names = {n.id for argument in node.args[1:] for n in ast.walk(argument) if isinstance(n, ast.Name)}
            # TrunkSpec is what all of them are: a card asks whether it was given one
            if names & SPECS:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if node.func.attr in ("endswith", "startswith", "removesuffix") and any(map(_tells_models_apart, parts)):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Compare):
            # what stands left of "in" is looked for in a text, as in the name of one of Detectron2's builders
            parts = node.comparators if isinstance(node.ops[0], (ast.In, ast.NotIn)) else [node]
            sides = [n.value for part in parts for n in ast.walk(part) if isinstance(n, ast.Constant)]
            if set(families()).intersection(side for side in sides if isinstance(side, str)):
                found.append(ast.unparse(node))
    return found


def _tells_models_apart(part: str) -> bool:
    return len(part) > 3 and any(m.startswith(part) or m.endswith(part) for m in known_models(named=True))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_family_is_told_apart(path: Path) -> None:
    assert questions(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "isinstance(card.arch, TimmSpec)",
        "isinstance(spec, (int, ResNetSpec))",
        "arch.model.endswith('_bit')",
        "name.startswith('convnext')",
        "entry.trunk == 'resnet'",
        "x in ('bit', 'clip')",
    ],
)
def test_such_lines_would_be_found(line: str) -> None:
    assert questions(line) == [line]


def test_innocent_lines_would_not() -> None:
    assert questions("isinstance(card.arch, TrunkSpec); name.endswith('.weight'); x == 'GN'") == []
