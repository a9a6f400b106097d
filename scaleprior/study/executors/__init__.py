"""What runs the cells of a study."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Executor": "local",
        "LocalExecutor": "local",
        "available_cores": "local",
    },
)
