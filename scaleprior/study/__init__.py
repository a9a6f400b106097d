"""The whole: spec, cells, folder, runner, executor and report of a pretraining-data study."""

from typing import TYPE_CHECKING

from scaleprior._lazy import lazy_exports

if TYPE_CHECKING:
    from scaleprior.study.cell import Cell as Cell
    from scaleprior.study.folder import StudyFolder as StudyFolder
    from scaleprior.study.plan import StudyPlan as StudyPlan, plan_study as plan_study
    from scaleprior.study.publish import Publication as Publication, publish_study as publish_study
    from scaleprior.study.report.page import StudyReport as StudyReport, build_report as build_report
    from scaleprior.study.result import CellResult as CellResult
    from scaleprior.study.runner import run_study as run_study
    from scaleprior.study.spec import StudySpec as StudySpec, load_spec as load_spec
    from scaleprior.study.status import study_status as study_status
    from scaleprior.study.study import Study as Study
    from scaleprior.study.view import CellStatus as CellStatus, StudyView as StudyView

lazy_exports(__name__)
