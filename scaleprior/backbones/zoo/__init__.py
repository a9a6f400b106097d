"""The zoo: a catalogue of backbones by name, and the way from ``scaleprior://NAME`` to a verified local file."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Catalogue": "catalogue",
        "Entry": "entry",
        "ScalePriorHandler": "handler",
        "add_backbone": "catalogue",
        "canonical": "resolve",
        "fetch": "resolve",
        "is_uri": "resolve",
        "load_catalogue": "catalogue",
        "local_path": "resolve",
        "register": "handler",
    },
)
