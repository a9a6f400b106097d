"""Packages whose public names are imported when they are first used (PEP 562), so that importing a room is cheap.

A package writes its names once, as imports that type checkers, editors and documentation tools read::

    if TYPE_CHECKING:
        from scaleprior.laws.fit import fit_law as fit_law
        from scaleprior.laws.law import Estimate as Estimate, Law as Law
    lazy_exports(__name__)

``X as X`` is how a typed package says that a name is public (PEP 484); other imports in the block stay private.
:func:`lazy_exports` reads the same lines from the package's source, so the two cannot disagree.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

__all__ = ["CallablePackage", "declared_exports", "lazy_exports", "make_callable"]

P = ParamSpec("P")
R = TypeVar("R")


def lazy_exports(package: str) -> None:
    """Give ``package`` the ``__getattr__``, ``__dir__`` and ``__all__`` that its ``TYPE_CHECKING`` block declares.

    Call it at the end of an ``__init__.py``; what is defined above it is public, too.

    Raises:
        AttributeError: later, on access, for a name that the package has not.
    """
    module = sys.modules[package]
    exports = declared_exports(package)
    own = {n for n, v in vars(module).items() if n[0] != "_" and getattr(v, "__module__", None) == package}
    public = sorted({*exports, *own})

    def __getattr__(name: str) -> Any:
        if name not in exports:
            near = difflib.get_close_matches(name, public, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(public)}"
            raise AttributeError(f"module {package!r} has no attribute {name!r}; {hint}", name=name, obj=module)
        value = importlib.import_module(exports[name])
        if exports[name] != f"{package}.{name}":
            value = getattr(value, name)
        setattr(module, name, value)  # the next access skips this function
        return value

    def __dir__() -> list[str]:
        loaded = {n for n, v in vars(module).items() if n[0] != "_" and isinstance(v, ModuleType)}
        return sorted({*public, *loaded, *(n for n in vars(module) if n.startswith("__"))})

    for name, value in {"__getattr__": __getattr__, "__dir__": __dir__, "__all__": public}.items():
        setattr(module, name, value)


def declared_exports(package: str) -> dict[str, str]:
    """Public name -> the module that defines it, from the ``if TYPE_CHECKING:`` block of a package's ``__init__.py``.

    A name that is a submodule of the package maps to itself: ``from scaleprior import laws as laws`` in ``scaleprior``,
    or an assignment, which gives such a submodule another type.
    """
    loader = getattr(sys.modules[package].__spec__, "loader", None)
    source = loader.get_source(package) if loader is not None else None
    if source is None:
        raise ImportError(f"{package} reads its public names from its source, which is not there")
    exports = {}
    for block in ast.parse(source).body:
        if not (isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"):
            continue
        for line in block.body:
            if isinstance(line, ast.ImportFrom):
                for alias in (a for a in line.names if a.asname == a.name):
                    origin = f"{package}.{alias.name}" if line.module == package else str(line.module)
                    # Python would bind the module, and not the object in it, as soon as anybody imports the module.
                    assert line.module != f"{package}.{alias.name}", f"{package}: module and object {alias.name}"
                    exports[alias.name] = origin
            elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                exports[line.targets[0].id] = f"{package}.{line.targets[0].id}"
    return exports


class CallablePackage(ModuleType, Generic[P, R]):
    """A package that is also the function it is named after: ``scaleprior.pretrain(...)``.

    ``scaleprior.pretrain`` is a room of the house and the verb that a user looks for. Python binds a sub-package to its
    parent whenever anybody imports it, so a function of that name would come and go with the order of imports. The
    package itself is therefore callable; ``import scaleprior.pretrain`` and ``from scaleprior.pretrain import X`` mean
    what they always do.
    """

    if TYPE_CHECKING:  # how ``scaleprior/__init__.py`` tells type checkers which function it is

        def __init__(self, function: Callable[P, R]) -> None: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the package's function of the same name; its docstring says what it takes."""
        return self._function(*args, **kwargs)

    @property
    def _function(self) -> Callable[P, R]:
        return getattr(self, self.__name__.rpartition(".")[2])

    @property
    def __signature__(self) -> inspect.Signature:  # for help(), inspect and the tooltips of notebooks
        return inspect.signature(self._function)


def make_callable(package: str) -> None:
    """Make ``package`` a :class:`CallablePackage`; call it behind :func:`lazy_exports`."""
    sys.modules[package].__class__ = CallablePackage
