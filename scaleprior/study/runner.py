"""Runs what is missing of a study, and shows where it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from scaleprior.detect.engines import get_engine
from scaleprior.errors import UserError
from scaleprior.files import remove_leftovers
from scaleprior.parsing import is_regular
from scaleprior.progress import ProgressFn
from scaleprior.study.cells import plan_cells
from scaleprior.study.check import check_study
from scaleprior.study.executors.executor import Executor, check_executor, get_executor
from scaleprior.study.failure import ERROR_FILE, Failure
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.helper_files import say_once
from scaleprior.study.prepare import PrepareProgress, describe_data, prepare_data
from scaleprior.study.result import RESULT_FILE, set_aside
from scaleprior.study.rungs import AbsentRung, skip_absent
from scaleprior.study.sharing import SHARING_FILE
from scaleprior.study.spec import StudySpec
from scaleprior.study.status import study_view
from scaleprior.study.view import CellStatus, StudyView
from scaleprior.wording import flag, parameter

__all__ = ["StudyOutcome", "run_study"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyOutcome:
    """What one call of :func:`run_study` did.

    Attributes:
        ran: cells that it started; 0 says that the study was complete.
    """

    view: StudyView
    ran: int


def run_study(
    spec: StudySpec,
    out: Path,
    *,
    jobs: int | None = None,
    jobs_per_gpu: int | Literal["auto"] | None = None,
    engine: str | None = None,
    executor: Executor | str | None = None,
    check: bool = True,
    skip_missing: bool = False,
    backbones_of: Path | None = None,
    show: Callable[[StudyView], None] | None = None,
    prepare_progress: PrepareProgress | None = None,
) -> StudyOutcome:
    """Run the cells of ``spec`` that ``out`` does not have yet.

    Args:
        out: the study's folder; made if absent, gone on with if it holds this study.
        jobs: cells at a time; by default what the executor takes (the local one: as many as cores or GPUs allow).
        jobs_per_gpu: in its place, cells at a time on each GPU; "auto" lets the local executor find out how many. An
            option of the executor, over the spec's.
        engine: overrides the spec's.
        executor: a name overrides the spec's; an :class:`Executor` that was made already is taken as it is, and knows
            its own ``jobs`` and options.
        check: look at all data, disk and memory before anything is made; see ``scaleprior.check``.
        skip_missing: leave out cells whose backbones are not here; the next run has those that came.
        backbones_of: folder of another study, with which the backbones are shared: those of the same corpus, recipe,
            noise and seed are pretrained once.
        show: called a few times a second with the state of all cells.
        prepare_progress: called with (what, done, total) while data are prepared.

    Raises:
        UserError: see :func:`load_spec`, :func:`get_executor`, :func:`prepare_data`, :func:`plan_cells`; another
            study's folder; ``jobs`` or ``jobs_per_gpu`` beside an executor that was made already; ``backbones_of``
            without backbones, or in a study that has its own.
    """
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise UserError(f"{parameter('jobs')} is {jobs!r}", hint="give a whole number of at least 1")
    name = engine or spec.engine
    get_engine(name)  # one that is not there should leave no folder behind
    place = _executor(spec, executor, jobs, jobs_per_gpu)
    if backbones_of is not None and not (backbones_of / "pretrained").is_dir():
        raise UserError(
            f"{parameter('backbones_of')} is {backbones_of}, which holds no pretrained backbones (no pretrained/)",
            hint="give the folder of a study that pretrains",
        )
    left_out = {}
    if skip_missing:
        spec, left_out = skip_absent(spec)
    if check:
        found = check_study(spec, out, engine=name, open_source=False, progress=_checking(prepare_progress))
        found.refuse()
    folder = StudyFolder(out)
    with folder.claim(name=spec.name, fingerprint=_fingerprint(spec)) as known:
        remove_leftovers(out, recursive=False)
        if backbones_of is not None:
            folder.share_backbones(backbones_of)
        resolved = _resolve_engine(folder, known, name)
        data = prepare_data(spec, out, engine=resolved, progress=prepare_progress)
        cells = tuple(plan_cells(spec, data, resolved))
        command = _command(spec, out, engine, executor, skip_missing=skip_missing, backbones_of=backbones_of)
        facts = {**describe_data(spec, data, resolved), **_left_out(left_out), "command": command}
        record = replace(known, engine=resolved, facts=facts, cells=cells)
        folder.write(record)
        ran = _run_missing(folder, record, place, show)
        return StudyOutcome(study_view(folder, record, busy=True), ran)


def _checking(progress: PrepareProgress | None) -> ProgressFn | None:
    return None if progress is None else lambda done, total, numbers: progress("checking files", done, total)


def _left_out(absent: Mapping[str, Sequence[AbsentRung]]) -> dict[str, str]:
    return {f"left out of {arch}, not here": ", ".join(r.weights for r in rungs) for arch, rungs in absent.items()}


def _command(
    spec: StudySpec,
    out: Path,
    engine: str | None,
    executor: Executor | str | None,
    *,
    skip_missing: bool = False,
    backbones_of: Path | None = None,
) -> str:
    """The words that run this very study again, ready for a shell."""
    if spec.path is None:
        arguments = {"engine": engine, "executor": executor if isinstance(executor, str) else None}
        given = "".join(f", {name}={value!r}" for name, value in arguments.items() if value)
        given += ", skip_missing=True" if skip_missing else ""
        given += f", backbones_of={str(backbones_of)!r}" if backbones_of is not None else ""
        study = f"sp.Study({dict(spec.raw)!r}, folder={str(spec.folder)!r})"
        return shlex.join(["python", "-c", f"import scaleprior as sp; {study}.run({str(out)!r}{given})"])
    chosen = [flag("engine"), engine] if engine else []
    chosen += [flag("executor"), executor] if isinstance(executor, str) else []
    chosen += [flag("skip_missing")] if skip_missing else []
    chosen += [flag("backbones_of"), str(backbones_of)] if backbones_of is not None else []
    return shlex.join(["scaleprior", "study", "run", spec.source, flag("out"), str(out), *chosen, *spec.overrides])


def _fingerprint(spec: StudySpec) -> str:
    """What makes two specs the same study: its name and its data. Rungs, seeds and recipes may be added later."""
    text = json.dumps([spec.name, spec.raw.get("corpus"), spec.raw.get("detection")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _resolve_engine(folder: StudyFolder, known: StudyRecord, name: str) -> str:
    """The engine of this study; fixed by its first plan, because engines must not mix in one law."""
    resolved = get_engine(known.engine if known.engine and name == "auto" else name).name
    if known.engine and resolved != known.engine:
        raise UserError(
            f"{folder.path} was begun with the {known.engine} engine, now {resolved} is asked for",
            hint=f"choose another folder with {parameter('out')}, engines do not mix in one study",
        )
    return resolved


def _executor(
    spec: StudySpec, wanted: Executor | str | None, jobs: int | None, jobs_per_gpu: int | Literal["auto"] | None
) -> Executor:
    """Made before anything costs time, so that what cannot run the cells is refused first."""
    if wanted is not None and not isinstance(wanted, str):
        place = check_executor(wanted, parameter("executor"))
        for name, value in (("jobs", jobs), ("jobs_per_gpu", jobs_per_gpu)):
            if value is not None:
                raise UserError(
                    f"{parameter(name)} is {value} beside an executor that was made already",
                    hint=f"give {name} where that executor is made, or the executor's name in its place",
                )
        return place
    name = wanted or spec.executor.name
    options = dict(spec.executor.options) if name == spec.executor.name else {}  # of the executor they stand by
    if jobs_per_gpu is not None:
        options["jobs_per_gpu"] = jobs_per_gpu
    return get_executor(name, jobs=jobs, threads=spec.threads, options=options)


def _run_missing(
    folder: StudyFolder, record: StudyRecord, executor: Executor, show: Callable[[StudyView], None] | None
) -> int:
    """Run the cells that have no result, and return how many those were."""
    missing = [status for status in study_view(folder, record, busy=False).cells if status.result is None]
    for status in missing:
        if os.path.lexists(status.folder / RESULT_FILE):  # damaged, or another cell's
            set_aside(status.folder)
        status.cell.save(status.folder)
        _unmark(status.folder)  # of a runner that was killed
    order = [status.folder for status in _in_order(missing)]

    def poll() -> None:
        if show is not None:
            show(study_view(folder, record, busy=True))

    try:
        for place, code in executor.run(order, on_start=_begin, on_poll=poll):
            _end(place, code)
            poll()  # the last cell's end would be shown by no other
    finally:
        for place in order:
            _unmark(place)
    return len(missing)


def _in_order(missing: Sequence[CellStatus]) -> list[CellStatus]:
    """Longest first: a long cell that starts last would leave the other processes idle at the end.

    Of the arms that share a backbone one pretrains it while the others would wait for it, so those come after the
    first of every backbone.
    """
    longest_first = sorted(missing, key=lambda status: -status.cell.cost)
    seen, first, later = set[str](), [], []
    for status in longest_first:
        backbone = status.cell.pretraining
        (later if backbone and backbone in seen else first).append(status)
        seen.add(backbone)
    return first + later


def _begin(place: Path) -> None:
    for name in (ERROR_FILE, SHARING_FILE):  # of an earlier attempt, perhaps by another executor
        with contextlib.suppress(OSError):
            (place / name).unlink()
    try:
        (place / "running").touch()
    except OSError as e:
        say_once(f"cannot write {place / 'running'}: {e.strerror or e}; its status will not say that it runs")


def _unmark(place: Path) -> None:
    with contextlib.suppress(OSError):  # not there; or on a disk that takes nothing any more
        (place / "running").unlink()


def _end(place: Path, code: int) -> None:
    """What a cell's process could not say itself, because it was killed, is said for it."""
    if not is_regular(place / RESULT_FILE):
        failure = Failure.read(place)
        if failure is None:
            cause = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            failure = Failure(f"its process {cause} without a result (see log.txt)")
            failure.save(place)
        logger.error("cell %s failed: %s", place.name, failure.error)
    _unmark(place)
