"""What ``import scaleprior as sp`` offers, and that every package's lazy names are the ones that type checkers see."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import scaleprior
from scaleprior._lazy import declared_exports

PACKAGE = Path(scaleprior.__file__).parent
LAZY = sorted(
    ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    for path in PACKAGE.rglob("__init__.py")
    if "\nlazy_exports(__name__)" in path.read_text(encoding="utf-8")
)
ROOMS = {"backbones", "config", "corpus", "detect", "errors", "laws", "model_zoo", "pretrain", "study", "training"}


def test_every_room_is_lazy() -> None:
    assert {f"scaleprior.{room}" for room in ROOMS - {"errors", "model_zoo"}} < set(LAZY)


@pytest.mark.parametrize("package", LAZY)
def test_a_package_offers_what_its_type_checking_block_declares(package: str) -> None:
    module = importlib.import_module(package)
    exports = declared_exports(package)
    assert set(exports) <= set(module.__all__) <= set(dir(module))
    for name, origin in exports.items():
        found = getattr(module, name)
        if origin == f"{package}.{name}":
            assert found is sys.modules[origin]
        else:
            assert found is getattr(sys.modules[origin], name)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize("package", LAZY)
def test_no_object_is_named_like_a_module_beside_it(package: str) -> None:
    """Importing the module would replace the object in the package; ``scaleprior.pretrain`` solves it by being both."""
    modules = {found.name for found in pkgutil.iter_modules(importlib.import_module(package).__path__)}
    assert {
        n for n, origin in declared_exports(package).items() if n in modules and origin != f"{package}.{n}"
    } == set()


def test_rooms_are_attributes_after_one_import() -> None:
    code = (
        "import json, sys\nimport scaleprior as sp\n"
        f"rooms = {{r: getattr(sp, r).__name__ for r in {sorted(ROOMS)!r}}}\n"
        "print(json.dumps([rooms, dir(sp), 'torch' in sys.modules]))"
    )
    rooms, names, torch = json.loads(python(code))
    assert rooms == {room: f"scaleprior.{room}" for room in ROOMS}
    assert set(names) > {"Corpus", "fit_law", "compare_laws", "__version__", *ROOMS}
    assert not [n for n in names if n.startswith("_") and not n.startswith("__")]
    assert not torch


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]
