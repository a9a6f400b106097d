"""A reader of pickles and torch files that can run nothing; README.md beside this says what it takes and refuses."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "LEGACY_MAGIC": "torch_files",
        "Tree": "load",
        "load_pickle": "load",
        "load_torch_legacy": "torch_files",
        "load_torch_zip": "torch_files",
    },
)
