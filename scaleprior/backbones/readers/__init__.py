"""Readers of foreign backbones: which file it is, what its names mean, what is known of it; safely."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "KINDS": "containers",
        "LAYOUTS": "layouts",
        "LIMITS": "limits",
        "Limits": "limits",
        "ReadOptions": "facts",
        "Reading": "report",
        "RefusedFileError": "limits",
        "Report": "report",
        "find_timm": "timm_names",
        "read_backbone": "read",
    },
)
