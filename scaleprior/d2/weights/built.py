"""What a model was built from: noted on it when Detectron2 builds it, because the model itself does not keep it.

``MODEL.PIXEL_MEAN`` becomes a buffer; ``INPUT.FORMAT``, which only data mappers and predictors read, leaves no trace in
most models. Of a model that is built from explicit arguments (a LazyConfig's) nothing is noted.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from detectron2.modeling import META_ARCH_REGISTRY
from fvcore.common.config import CfgNode
from torch import nn

from scaleprior.backbones.contract import is_strict
from scaleprior.d2.weights.places import paths_above

__all__ = ["BuiltFrom", "from_config", "note_around", "note_configs", "note_inside"]

_NOTE = "_scaleprior_built_from"


class BuiltFrom(NamedTuple):
    """Of the config that a model was built from.

    Attributes:
        channel_order: INPUT.FORMAT.
        strict: see ``contract.is_strict``.
        has_keys: it declares ScalePrior's keys.
    """

    channel_order: str
    strict: bool
    has_keys: bool


def from_config(cfg: CfgNode) -> BuiltFrom:
    """What is noted of ``cfg``.

    Raises:
        UserError: see ``contract.is_strict``.
    """
    return BuiltFrom(str(cfg.INPUT.FORMAT), is_strict(cfg), "SCALEPRIOR" in cfg)


def note_around(model: nn.Module, path: str) -> BuiltFrom | None:
    """The note on the module at ``path`` or on the innermost one around it; None: built from explicit arguments.

    It is an attribute, so that copies of a module (an EMA's) have it, too.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    return next((note for at in paths_above(path) if (note := _note_on(modules[at]))), None)


def note_inside(model: nn.Module) -> BuiltFrom | None:
    """The first note in ``model``."""
    return next((note for module in model.modules() if (note := _note_on(module))), None)


def _note_on(module: nn.Module) -> BuiltFrom | None:
    note = module.__dict__.get(_NOTE)
    return None if note is None else BuiltFrom(*note)


def note_configs() -> None:
    """Let what ``build_model`` looks up note the config it is called with; twice is harmless.

    A class stays the class that it is, for whoever else looks it up; only its constructor does more.
    """
    if "get" in vars(META_ARCH_REGISTRY):
        return
    look_up = META_ARCH_REGISTRY.get

    @functools.wraps(look_up)
    def get(name: str) -> Any:
        found = look_up(name)
        if not isinstance(found, type):
            return _noting_builder(found)
        if not hasattr(found.__init__, _NOTE):
            found.__init__ = _noting_constructor(found.__init__)
        return found

    META_ARCH_REGISTRY.get = get  # pyright: ignore[reportAttributeAccessIssue] (on this one registry only)


def _noting_constructor(init: Any) -> Any:
    @functools.wraps(init)
    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        _note(self, args, kwargs)

    setattr(noting, _NOTE, True)
    return noting


def _noting_builder(build: Any) -> Any:
    @functools.wraps(build)
    def noting(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        _note(model, args, kwargs)
        return model

    return noting


def _note(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note the config that is the first argument, if it is one."""
    cfg = args[0] if args else kwargs.get("cfg")
    if isinstance(cfg, CfgNode) and "INPUT" in cfg:
        # a plain tuple, which TorchScript and pickles take
        model.__dict__[_NOTE] = tuple(from_config(cfg))
