"""The synthetic world: a corpus and a detection set whose images show the same procedural objects."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "World": "world",
        "WorldSpec": "spec",
        "contact_sheet": "world",
    },
)
