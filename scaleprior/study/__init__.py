"""The whole: spec, cells, store, runner, executor and report of a pretraining-data study."""

from scaleprior._lazy import lazy_exports

__getattr__, __all__ = lazy_exports(
    __name__,
    {
        "Cell": "cells",
        "StudySpec": "spec",
        "StudyStore": "store",
        "load_spec": "spec",
        "run_study": "runner",
        "study_status": "runner",
        "write_report": "report.page",
    },
)
