"""What it means: functional forms, fitting, selection, forecasts with intervals, comparison, planning."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "FORMS": "fit",
        "Estimate": "law",
        "Law": "law",
        "compare_laws": "compare",
        "fit_law": "fit",
        "plan": "plan",
        "draw_law": "pictures",
    },
)
