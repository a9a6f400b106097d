"""The whole: spec, cells, store, runner, executor and report of a pretraining-data study."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.study.cells import Cell as Cell
    from scaleprior.study.report.page import write_report as write_report
    from scaleprior.study.runner import run_study as run_study, study_status as study_status
    from scaleprior.study.spec import StudySpec as StudySpec, load_spec as load_spec
    from scaleprior.study.store import StudyStore as StudyStore

lazy_exports(__name__)
