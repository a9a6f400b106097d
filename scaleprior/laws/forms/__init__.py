"""The functional forms that a law may take."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Array": "form",
        "BrokenPowerLaw": "broken",
        "Form": "form",
        "LogLinear": "form",
        "LogisticInLog": "sigmoidal",
        "M1": "form",
        "M3": "form",
        "M4": "sigmoidal",
        "PowerLawOffset": "form",
    },
)
