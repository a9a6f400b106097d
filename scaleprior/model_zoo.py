"""``scaleprior.model_zoo.with_backbone``: the Detectron2 plugin's function under the name that its users look for."""

from __future__ import annotations

from typing import Any

__all__ = ["with_backbone"]  # noqa: F822 (made by __getattr__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    from scaleprior.d2 import with_backbone

    return with_backbone
