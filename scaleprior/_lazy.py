"""Lazy re-exports (PEP 562), so that importing a package does not import torch."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(package: str, names: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """Make ``__getattr__`` and ``__all__`` for a package whose public names live in its submodules.

    Use in an ``__init__.py``::

        __getattr__, __all__ = lazy_exports(__name__, {"Law": "law", "fit_law": "fit"})

    Args:
        package: the package's ``__name__``.
        names: public name -> submodule (relative to the package) that defines it.

    Raises:
        AttributeError: on access, for a name that is neither exported nor a submodule.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it exports {sorted(names)}")
        value = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        setattr(sys.modules[package], name, value)  # the next access skips this function
        return value

    return __getattr__, sorted(names)
