"""Runs what is missing of a study, keeps its store, and shows where it is."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.detect.engines import get_engine
from scaleprior.errors import FailureError, UserError
from scaleprior.files import remove_leftovers
from scaleprior.study.cells import Cell, plan_cells
from scaleprior.study.executors.executor import Executor, get_executor
from scaleprior.study.prepare import describe_data, prepare_data
from scaleprior.study.spec import StudySpec
from scaleprior.study.store import StudyStore

__all__ = ["CellState", "StudyOutcome", "StudyView", "run_study", "study_status"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CellState:
    """A cell as the store and its folder show it now.

    Attributes:
        state: ``pending``, ``running``, ``done`` or ``failed``.
        stage, done, total: where a running (or interrupted) cell is; empty and 0 before its first step.
    """

    arch: str
    images: int
    seed: int
    key: str
    folder: Path
    state: str
    error: str
    result: dict[str, Any] | None
    stage: str = ""
    done: int = 0
    total: int = 0
    numbers: dict[str, float] | None = None


@dataclass(frozen=True)
class StudyView:
    """A whole study at one moment."""

    folder: Path
    name: str
    cells: tuple[CellState, ...]
    facts: dict[str, Any]


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
    engine: str | None = None,
    executor: Executor | str | None = None,
    show: Callable[[StudyView], None] | None = None,
    prepare_progress: Callable[[str, int, int], None] | None = None,
) -> StudyOutcome:
    """Run the cells of ``spec`` that ``out`` does not have yet.

    Args:
        out: the study's folder; made if absent, gone on with if it holds this study.
        jobs: cells at a time; by default what the executor takes (the local one: as many as cores or GPUs allow).
        engine: overrides the spec's.
        executor: a name overrides the spec's; an :class:`Executor` that was made already is taken as it is.
        show: called a few times a second with the state of all cells.
        prepare_progress: called with (what, done, total) while data are prepared.

    Raises:
        UserError: see :func:`load_spec`, :func:`prepare_data`, :func:`plan_cells`; another study's folder.
    """
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs is {jobs}", hint="give a whole number of at least 1")
    name = engine or spec.engine
    get_engine(name)  # one that is not there should leave no folder behind
    place = _executor(spec, executor, jobs)
    with StudyStore.create(out, name=spec.name, identity=_identity(spec)) as store, store.lock():
        remove_leftovers(out, recursive=False)
        resolved = _resolve_engine(store, name)
        data = prepare_data(spec, out, progress=prepare_progress)
        cells = plan_cells(spec, data, resolved)
        store.add(cells)
        store.set_meta("spec", json.dumps(spec.raw))
        store.set_meta("spec_source", spec.source)
        store.set_meta(
            "facts",
            json.dumps({**describe_data(spec, data, resolved), "command": _command(spec, out, engine, executor)}),
        )
        store.set_meta("plan", json.dumps([[c.key, c.arch, c.images, c.seed, c.folder_name] for c in cells]))
        ran = _run_missing(store, cells, place, show)
        return StudyOutcome(study_status(out, store), ran)


def study_status(folder: Path, store: StudyStore | None = None) -> StudyView:
    """The state of every cell of the study's newest plan.

    Raises:
        UserError: the folder holds no study.
    """
    if store is None:
        with StudyStore.open(folder) as opened:
            return study_status(folder, opened)
    records = store.records()
    states = []
    for key, arch, images, seed, folder_name in json.loads(store.meta("plan") or "[]"):
        record = records[key]
        place = folder / "cells" / folder_name
        progress = _progress(place) if record.state in ("running", "pending", "failed") else {}
        states.append(CellState(arch, images, seed, key, place, record.state, record.error, record.result, **progress))
    return StudyView(folder, store.meta("name") or "", tuple(states), json.loads(store.meta("facts") or "{}"))


def _command(spec: StudySpec, out: Path, engine: str | None, executor: Executor | str | None) -> str:
    """The words that run this very study again, ready for a shell."""
    chosen = ["--engine", engine] if engine else []
    chosen += ["--executor", executor] if isinstance(executor, str) else []
    return shlex.join(["scaleprior", "study", "run", spec.source, "--out", str(out), *chosen, *spec.overrides])


def _identity(spec: StudySpec) -> str:
    """What makes two specs the same study: its name and its data. Rungs, seeds and recipes may be added later."""
    text = json.dumps([spec.name, spec.raw.get("corpus"), spec.raw.get("detection")], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _resolve_engine(store: StudyStore, name: str) -> str:
    """The engine of this study; fixed by its first run, because engines must not mix in one law."""
    first = store.meta("engine")
    if first is not None and name == "auto":
        name = first
    resolved = get_engine(name).name
    if first is not None and resolved != first:
        raise UserError(
            f"{store.folder} was begun with the {first} engine, now {resolved} is asked for",
            hint="choose another folder with --out, engines do not mix in one study",
        )
    store.set_meta("engine", resolved)
    return resolved


def _executor(spec: StudySpec, wanted: Executor | str | None, jobs: int | None) -> Executor:
    if wanted is not None and not isinstance(wanted, str):
        return wanted
    name = wanted or spec.executor.name
    options = spec.executor.options if name == spec.executor.name else {}  # those are of the executor they stand by
    return get_executor(name, jobs=jobs, threads=spec.threads, options=options)


def _run_missing(
    store: StudyStore, cells: Sequence[Cell], executor: Executor, show: Callable[[StudyView], None] | None
) -> int:
    folders = {store.folder.absolute() / "cells" / cell.folder_name: cell for cell in cells}  # as others see them
    _take_in_finished(store, folders)
    records = store.records()
    missing = {folder: cell for folder, cell in folders.items() if records[cell.key].state != "done"}
    for folder, cell in missing.items():
        cell.save(folder)
    # Longest first: a long cell that starts last would leave the other processes idle at the end.
    order = sorted(missing, key=lambda folder: -missing[folder].cost)
    done: set[Path] = set()
    try:
        for folder, code in executor.run(
            order,
            on_start=lambda folder: store.start(folders[folder].key),
            on_poll=lambda: show(study_status(store.folder, store)) if show else None,
        ):
            done.add(folder)
            _take_in(store, folders[folder], folder, code)
            if show:  # the last cell's end would be shown by no poll
                show(study_status(store.folder, store))
    finally:
        for folder, cell in missing.items():
            if folder not in done and store.records()[cell.key].state == "running":
                store.reset(cell.key)
    return len(missing)


def _take_in_finished(store: StudyStore, folders: dict[Path, Cell]) -> None:
    """After a killed runner: results that are there but not in the store, and cells that were under way."""
    records = store.records()
    for folder, cell in folders.items():
        if records[cell.key].state != "done" and (folder / "result.json").is_file():
            _take_in(store, cell, folder, 0)
        elif records[cell.key].state == "running":
            store.reset(cell.key)


def _take_in(store: StudyStore, cell: Cell, folder: Path, code: int) -> None:
    if (folder / "result.json").is_file():
        store.finish(cell.key, json.loads((folder / "result.json").read_text()))
        return
    if (folder / "error.json").is_file():
        error = json.loads((folder / "error.json").read_text())["error"]
    else:
        cause = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        error = f"its process {cause} without a result (see log.txt)"
    logger.error("cell %s failed: %s", cell.folder_name, error)
    store.fail(cell.key, error)


def _progress(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "progress.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise FailureError(f"cannot read {folder / 'progress.json'}: {e}", hint="remove it and run again") from e
