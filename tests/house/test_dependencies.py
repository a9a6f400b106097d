"""What the package imports is declared: nothing is there only because something else brings it."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions

from tests.conftest import REPO

# Detectron2 is not on PyPI and brings omegaconf; typing_extensions is read by type checkers only, which have it; wandb
# is an extra, asked for by a key that is refused without it; triton comes with torch where it is of use, and is not
# asked for elsewhere.
_NOT_REQUIRED = {"detectron2", "omegaconf", "triton", "typing_extensions", "wandb"}


def _declared() -> set[str]:
    """Distributions that pyproject.toml requires; read as text, since Python 3.10 has no reader of TOML."""
    text = (REPO / "pyproject.toml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    return {_plain(name) for name in re.findall(r'^ +"([\w.-]+)', block, re.MULTILINE)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_of_a_declared_dependency() -> None:
    imported: dict[str, str] = {}
    for path in sorted((REPO / "scaleprior").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            imported |= {name.split(".")[0]: f"{path.relative_to(REPO)}:{node.lineno}" for name in names}
    ours = {"scaleprior", *_NOT_REQUIRED, *sys.stdlib_module_names}
    brings, declared = packages_distributions(), _declared()
    assert {"torch", "huggingface-hub"} <= declared
    undeclared = {
        name: where
        for name, where in imported.items()
        if name not in ours and not declared & set(map(_plain, brings.get(name, [name])))
    }
    assert not undeclared
