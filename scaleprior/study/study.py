"""``scaleprior.Study``: a whole study from a Python program or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from scaleprior.errors import FailureError, UserError
from scaleprior.study.spec import StudySpec, check_overrides, load_spec

if TYPE_CHECKING:
    import pyarrow

    from scaleprior.laws import Law
    from scaleprior.study.executors.executor import Executor
    from scaleprior.study.plan import StudyPlan
    from scaleprior.study.publish import Publication
    from scaleprior.study.report.page import StudyReport
    from scaleprior.study.view import StudyView

__all__ = ["Study"]


class Study:
    """What to run, and the folder where it is run.

    ::

        study = sp.Study("studies/quickstart.yaml", overrides={"seeds": [0]}).run("quickstart", progress=True)
        study.results()    # a row a finished cell
        study.report()     # shown by a notebook; .write(folder) makes the files

    Args:
        spec: a YAML file, by path or by its name in ``configs/``, or a mapping of the sections that such a file has.
        overrides: dotted keys of the spec that are replaced: ``{"seeds": [0, 1], "finetune.overrides": {...}}``.
        folder: what relative paths in a mapping are relative to (default: where you are). A file's are to its own
            folder, so it goes with a mapping only.
        sections: in place of a mapping: ``Study(name="mine", corpus={...}, ladder=[...], ...)``.

    Raises:
        UserError: names the section and key that is missing, unknown or of a wrong type, or the parameter that does
            not go with the others.
    """

    def __init__(
        self,
        spec: str | Path | Mapping[str, Any] | StudySpec | None = None,
        *,
        overrides: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        **sections: Any,
    ) -> None:
        if (spec is None) == (not sections):
            raise UserError("a study needs either a spec or its sections", hint="give one of them")
        check_overrides(overrides)
        if folder is not None and isinstance(spec, (str, Path, StudySpec)):
            raise UserError(
                f"folder is {str(folder)!r}, which goes with a mapping of sections",
                hint="leave it out: paths of a file are relative to its own folder",
            )
        self._out: Path | None = None
        self._spec: StudySpec | None
        if isinstance(spec, StudySpec):
            if overrides:
                raise UserError("overrides go with a file or a mapping", hint="give them where the spec is made")
            self._spec = spec
        elif isinstance(spec, (str, Path)):
            self._spec = load_spec(spec, overrides or {})
        else:
            self._spec = StudySpec.from_dict(spec or sections, folder=folder or ".", overrides=overrides)

    @classmethod
    def open(cls, folder: str | Path) -> Study:
        """A study that was run, to look at, or a published one; only one made from its spec can be run on.

        Raises:
            UserError: the folder holds no study.
        """
        from scaleprior.study.status import study_status

        study = cls.__new__(cls)
        study._spec, study._out = None, Path(folder)
        study_status(study._out)
        return study

    def __repr__(self) -> str:
        name = self._spec.name if self._spec is not None else self.status().name
        return f"Study({name!r}, {'not run yet' if self._out is None else f'in {self._out}'})"

    @property
    def spec(self) -> StudySpec:
        """What is run.

        Raises:
            UserError: the study was opened from its folder, which does not hold the spec.
        """
        if self._spec is None:
            raise UserError(f"{self._out} was opened to look at", hint="make the Study from its spec to run it on")
        return self._spec

    @property
    def folder(self) -> Path:
        """Where it is run.

        Raises:
            UserError: it was not run yet.
        """
        if self._out is None:
            raise UserError(f"study {self.spec.name!r} has no folder yet", hint="call run(out), or Study.open(folder)")
        return self._out

    def plan(
        self,
        out: str | Path | None = None,
        *,
        engine: str | None = None,
        seconds_per_step: Mapping[str, float] | float | None = None,
    ) -> StudyPlan:
        """The grid, what of it is done, what is missing, and its work in steps and images; runs and makes nothing.

        Args:
            out: the study's folder, as :meth:`run` takes it; need not be there.
            engine: overrides the spec's.
            seconds_per_step: of fine-tuning, as you measured it: of each architecture, or of all.

        Raises:
            UserError: the spec does not hold together.
        """
        from scaleprior.study.plan import plan_study

        folder = Path(out) if out is not None else self._out or Path(self.spec.name)
        return plan_study(self.spec, folder, engine=engine, seconds_per_step=seconds_per_step)

    def run(
        self,
        out: str | Path | None = None,
        *,
        jobs: int | None = None,
        jobs_per_gpu: int | Literal["auto"] | None = None,
        engine: str | None = None,
        executor: Executor | str | None = None,
        check: bool = True,
        skip_missing: bool = False,
        backbones_of: str | Path | None = None,
        progress: Callable[[StudyView], None] | bool = False,
    ) -> Study:
        """Run what is missing; call it again after an interruption or with a longer ladder, and it goes on.

        Cells run in processes of their own, which do not import your program.

        Args:
            out: the study's folder; by default where it ran before, or the spec's name.
            jobs: cells at a time; by default as many as the executor takes.
            jobs_per_gpu: in its place, cells at a time on each GPU; "auto": as many as fit, found out while they run.
            engine: overrides the spec's.
            executor: overrides the spec's: a name, or an :class:`Executor` that was made already, with its own jobs.
            check: look at all data, disk and memory before anything is made; see ``scaleprior.check``.
            skip_missing: of ``backbones`` leave out those that are not here; run again when they are.
            backbones_of: folder of another study, with which the backbones are shared: those of the same corpus,
                recipe, noise and seed are pretrained once.
            progress: True for bars on the terminal; or a function that is called a few times a second with the view.

        Returns:
            Itself. Cells that failed are in :meth:`status`, and the report names them.

        Raises:
            UserError: the spec or its data do not hold together, or ``out`` holds another study.
            FailureError: every cell failed.
        """
        from scaleprior.study.runner import run_study

        folder = Path(out) if out is not None else self._out or Path(self.spec.name)
        options: dict[str, Any] = {
            "jobs": jobs, "jobs_per_gpu": jobs_per_gpu, "engine": engine, "executor": executor, "check": check,
            "skip_missing": skip_missing, "backbones_of": None if backbones_of is None else Path(backbones_of),
        }  # fmt: skip
        if progress is True:
            from scaleprior.study.report.terminal import StudyDisplay

            with StudyDisplay() as display:
                outcome = run_study(self.spec, folder, **options, show=display.cells, prepare_progress=display.prepare)
        else:
            outcome = run_study(self.spec, folder, **options, show=progress or None)
        self._out = folder
        if not any(cell.state == "done" for cell in outcome.view.cells):
            errors = "; ".join(sorted({cell.error for cell in outcome.view.cells}))
            raise FailureError(f"every cell of {folder} failed: {errors}", hint="repair the cause and run again")
        return self

    def status(self) -> StudyView:
        """Where every cell is; also while another process runs the study."""
        from scaleprior.study.status import study_status

        return study_status(self.folder)

    @overload
    def results(self, as_: Literal["arrow"]) -> pyarrow.Table: ...

    @overload
    def results(self, as_: Literal["auto", "pandas"] = "auto") -> Any: ...

    def results(self, as_: str = "auto") -> Any:
        """A row a finished cell: the columns of ``results.csv``, AP in [0, 100]; their types are always the same.

        Args:
            as_: ``"pandas"`` (which ScalePrior does not install) or ``"arrow"``; ``"auto"``: pandas where it is there.

        Raises:
            UserError: another word, or pandas is not installed.
        """
        from scaleprior.study.report.summary import result_table

        if as_ not in ("auto", "pandas", "arrow"):
            raise UserError(f"as_ is {as_!r}", hint="take 'auto', 'pandas' or 'arrow'")
        table = result_table(self.status())
        if as_ == "arrow":
            return table
        if find_spec("pandas") is None:
            if as_ == "auto":
                return table
            raise UserError("as_ is 'pandas', which is not installed", hint="install it, or take 'arrow'")
        return table.to_pandas().astype({"images_seen": "Int64"})  # which has a missing value, as int64 has not

    def laws(self) -> dict[str, Law]:
        """The law of each architecture that has fractions enough for one; the report says why others have none.

        In a study with arms each arm has its own, called ``"ARCHITECTURE (ARM)"``.
        """
        return {summary.title: summary.law for summary in self.report().summaries if summary.law is not None}

    def report(self) -> StudyReport:
        """What the finished cells say: sentences, table, laws, figure.

        Raises:
            UserError: no cell is done yet.
        """
        from scaleprior.study.report.page import build_report

        return build_report(self.status())

    def publish(self, out: str | Path, *, facts: Mapping[str, str] | None = None) -> Publication:
        """Write what the study measured into ``out``: results, report and cards, without weights, data and places.

        :meth:`open` takes that folder as it takes the study's own, and its report is the same.

        Args:
            out: made if absent; may hold an earlier publication, and nothing else.
            facts: further rows of the report's settings, such as the machine.

        Raises:
            UserError: no cell is done, the study is a published one, or ``out`` holds other files.
        """
        from scaleprior.study.publish import publish_study

        return publish_study(self.folder, out, facts=facts)

    def _repr_html_(self) -> str | None:
        done = self._out is not None and any(cell.state == "done" for cell in self.status().cells)
        return self.report()._repr_html_() if done else None
