"""One cell from start to end: pretrain, fine-tune, evaluate. Runs in a process of its own::

    python -m scaleprior.study.worker CELL_FOLDER

Each stage is skipped when its final file is there and goes on from its last checkpoint when that is there, so a cell
can be killed at any moment and started again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from scaleprior._version import __version__
from scaleprior.backbones.weights import read_card
from scaleprior.detect.engines import get_engine
from scaleprior.errors import ScalePriorError, UserError
from scaleprior.files import WriteError, make_folder, remove_leftovers
from scaleprior.locks import open_lock
from scaleprior.parsing import is_regular
from scaleprior.pretrain import pretrain
from scaleprior.progress import ProgressFn, StandardError
from scaleprior.study.cell import CELL_FILE, Cell
from scaleprior.study.failure import ERROR_FILE, Failure
from scaleprior.study.fields import are_numbers
from scaleprior.study.helper_files import read_helper, without_hint, write_helper
from scaleprior.study.result import CellResult, set_aside
from scaleprior.study.sharing import CellMemory, Sharing
from scaleprior.training.memory import causes, is_out_of_memory, memory_that_ran_out
from scaleprior.wording import one_line

__all__ = ["main", "run_cell"]

logger = logging.getLogger(__name__)

_REPORT_SECONDS = 0.3
_SPARE = 3  # descriptors, for saying that there was none left
_SUMS = ("wall", "cpu", "told", "shared")  # of seconds, by stage
_LONGEST = 1000  # characters of an error that is none of ours


def main(argv: Sequence[str] | None = None) -> int:
    """Run one cell; what it prints goes to the folder's ``log.txt``.

    Returns:
        0 done, 1 failed (the folder has an ``error.json``), 2 for a folder that holds no cell.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scaleprior.study.worker",
        description="Run one cell of a study, on any machine that sees its folder and the data under the same paths.",
    )
    parser.add_argument("folder", type=Path, metavar="CELL_FOLDER", help="OUT/cells/NAME, which holds a cell.json")
    folder = parser.parse_args(argv).folder
    if not is_regular(folder / CELL_FILE):
        parser.error(f"{folder} holds no {CELL_FILE}; `scaleprior study run` writes it")
    return run_cell(folder)


def run_cell(folder: Path) -> int:
    """Run the cell described in ``folder/cell.json``; a cell that has its result already is left as it is.

    Leaves ``result.json`` (what was measured, what it cost) or ``error.json`` (why not), and ``log.txt``.

    Returns:
        0 when the result is there, 1 when the error is.
    """
    return _recorded(folder, _in_its_folder)


def _in_its_folder(folder: Path) -> int:
    _redirect_output(folder / "log.txt")
    with _alone(folder):
        return _recorded(folder, _attempt)


def _recorded(folder: Path, work: Callable[[Path], int]) -> int:
    """What ``work`` returns; 1 when it fails, and then it is recorded why."""
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(_SPARE)]
    try:
        return work(folder)
    except ScalePriorError as e:
        logger.error("%s", e)
        failed, said = e, str(e)
    except Exception as e:
        # The boundary of the process: whatever went wrong in this cell is recorded, and the other cells go on.
        logger.exception("the cell failed")
        failed, said = e, f"{_words(e)} (traceback in log.txt)"
    finally:
        for handle in spare:
            os.close(handle)
    _failed(folder, failed, said)
    return 1


def _words(error: Exception) -> str:
    kind, said = type(error).__name__, one_line(error, _LONGEST)
    return kind if said == kind else f"{kind}: {said}"  # a MemoryError has no words


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process works on this cell: a batch system may still run it for a runner that was killed."""
    try:
        lock = open_lock(folder / ".lock")
    except OSError as e:
        raise WriteError.of(folder / ".lock", e) from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _attempt(folder: Path) -> int:
    cell = Cell.load(folder)
    if _is_done(folder, cell):
        return 0
    with contextlib.suppress(FileNotFoundError):
        (folder / ERROR_FILE).unlink()
    remove_leftovers(folder)
    torch.set_num_threads(cell.threads)
    cv2.setNumThreads(0)  # the cell's share of the machine is `threads`, no more
    _stages(cell, folder).save(folder)
    return 0


def _is_done(folder: Path, cell: Cell) -> bool:
    try:
        return CellResult.find(folder, cell.key) is not None
    except UserError as e:
        logger.warning("%s; it is measured again now", without_hint(e))
        set_aside(folder)
        return False


def _failed(folder: Path, error: Exception, said: str) -> None:
    """Write why; where memory ran out, also who had a part of it, because alone the cell may well have room."""
    memory, sharing = memory_that_ran_out(error), Sharing.read(folder)
    if memory == "host":
        certain = any(map(is_out_of_memory, causes(error)))
        said = f"{said}; the machine's memory {'ran out' if certain else 'may have run out'}"
    if memory is not None and sharing is not None:
        said = f"{said}; it worked {sharing.words}"
    Failure(said, memory or "").save(folder)


def _stages(cell: Cell, folder: Path) -> CellResult:
    clock = _Clock(folder)
    weights, pretrained = None, None
    learner = cell.pretrain_config()
    if learner is not None:
        place = _pretraining_folder(cell, folder)
        with _alone(place), clock.stage("pretrain", place) as progress:
            outcome = pretrain(  # the study looked first, and has pictures of its own
                learner, place, resume=True, check=False, progress=progress, curves=False
            )
        weights = outcome.backbone
        pretrained = outcome.metrics
    elif cell.weights:
        weights = _given_weights(cell)
    engine, detector = get_engine(cell.engine), cell.finetune_config()
    with clock.stage("finetune") as progress:
        model = engine.train(detector, weights, folder / "finetune", resume=True, progress=progress)
    with clock.stage("evaluate") as progress:
        (found,) = engine.evaluate(detector, model, folder / "evaluate", progress=progress).values()
    if not found.has_boxes:
        raise UserError("the detector has no box AP, which a study measures", hint="take one that detects objects")
    versions = {"scaleprior": __version__, "torch": torch.__version__}
    return CellResult(found, pretrained, clock.wall, clock.cpu, versions, clock.cells_at_once, cell.key)


def _pretraining_folder(cell: Cell, folder: Path) -> Path:
    """Where the cell pretrains: outside its own folder, so that cells that differ in what comes later share it.

    ``pretrain`` in the cell's folder leads there; it is a folder itself in cells that an earlier version began.
    """
    link = folder / "pretrain"
    if not cell.pretraining or (link.is_dir() and not link.is_symlink()):
        link.mkdir(exist_ok=True)
        return link
    place = folder.absolute().parents[1] / "pretrained" / cell.backbone_name
    make_folder(place)  # with what is flushed in it, which a power cut would take along
    with contextlib.suppress(OSError):  # there already, or a file system without links, which are for people
        link.symlink_to(os.path.relpath(place, folder.absolute()), target_is_directory=True)
    return place


def _given_weights(cell: Cell) -> Path:
    """The backbone that the cell's key stands for; its tensors are held against the card when they are loaded."""
    found = read_card(cell.weights).tensors_sha256
    if found != cell.weights_sha256:
        raise UserError(
            f"{cell.weights} was replaced after this cell was planned: tensors {found[:16]}, when planned "
            f"{cell.weights_sha256[:16]}",
            hint="run the study again",
        )
    return Path(cell.weights)


class _Spent:
    """Wall and CPU seconds by stage, summed over attempts and kept in a folder.

    ``told`` are those wall seconds in which somebody said how many cells worked side by side, ``shared`` the same
    times that number.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "seconds.json"
        self.wall, self.cpu, self.told, self.shared = self._read()

    def _read(self) -> list[dict[str, float]]:
        raw = read_helper(self._file, what="seconds", fits=_are_seconds) or {}
        return [raw.get(name, {}) for name in _SUMS]

    def add(self, name: str, wall: float, cpu: float, cells: float | None) -> None:
        for sums, seconds in ((self.wall, wall), (self.cpu, cpu)):
            sums[name] = sums.get(name, 0.0) + seconds
        if cells is not None:
            self.told[name] = self.told.get(name, 0.0) + wall
            self.shared[name] = self.shared.get(name, 0.0) + wall * cells
        sums = {"wall": self.wall, "cpu": self.cpu, "told": self.told, "shared": self.shared}
        write_helper(self._file, sums)


def _are_seconds(raw: Any) -> bool:
    return isinstance(raw, dict) and all(are_numbers(raw.get(name, {}), least=0) for name in _SUMS)


class _Clock:
    """The seconds of each stage, and the files by which the runner knows how far it is and what it takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._progress_file = folder / "progress.json"
        self._spent = {folder: _Spent(folder)}
        self._peak = 0

    @property
    def wall(self) -> dict[str, float]:
        return {name: seconds for spent in self._spent.values() for name, seconds in spent.wall.items()}

    @property
    def cpu(self) -> dict[str, float]:
        return {name: seconds for spent in self._spent.values() for name, seconds in spent.cpu.items()}

    @property
    def cells_at_once(self) -> dict[str, float]:
        """Of each stage the mean over its time of how many cells shared the GPU or the machine, where it was told."""
        return {
            name: spent.shared[name] / seconds
            for spent in self._spent.values()
            for name, seconds in spent.told.items()
            if seconds
        }

    def stage(self, name: str, folder: Path | None = None) -> _Stage:
        """Time a stage; what it cost is kept in ``folder`` where that outlives the cell."""
        place = self._folder if folder is None or folder.parent == self._folder else folder
        return _Stage(self, self._spent.setdefault(place, _Spent(place)), name)

    def show(self, **state: Any) -> None:
        write_helper(self._progress_file, state)

    def cells(self) -> int | None:
        """How many work here now; None where nobody says."""
        sharing = Sharing.read(self._folder)
        return None if sharing is None else sharing.cells

    def show_memory(self) -> None:
        """Tell what the process holds of its GPU. A process that uses none is not made to."""
        now = peak = 0
        if torch.cuda.is_initialized():
            now, peak = torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved()
        self._peak = max(self._peak, peak)  # torch's own is set back by who measures a part of the run
        CellMemory(now, self._peak).save(self._folder)


class _Stage:
    """Times one stage and hands out its progress function; the time of an interrupted attempt counts, too."""

    def __init__(self, clock: _Clock, spent: _Spent, name: str) -> None:
        self._clock = clock
        self._spent = spent
        self._name = name

    def __enter__(self) -> ProgressFn:
        self._mark = time.monotonic(), time.process_time()
        self._cells = self._clock.cells()
        shown = self._mark[0]
        self._clock.show(stage=self._name, done=0, total=0, numbers={})

        def progress(done: int, total: int, numbers: Mapping[str, float]) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown >= _REPORT_SECONDS or done == total:
                shown = now
                self._flush()
                # Progress is shown, not kept: a number that JSON has no word for (a nan loss) is left out.
                finite = {k: v for k, v in numbers.items() if v == v and abs(v) != float("inf")}
                self._clock.show(stage=self._name, done=done, total=total, numbers=finite)
                self._clock.show_memory()

        return progress

    def __exit__(self, *exc: object) -> None:
        self._flush()

    def _flush(self) -> None:
        now, cells = (time.monotonic(), time.process_time()), self._clock.cells()
        # of what was said before and after, the mean: when in between it changed, nobody asked
        said = [count for count in (self._cells, cells) if count is not None]
        mean = sum(said) / len(said) if said else None
        self._spent.add(self._name, now[0] - self._mark[0], now[1] - self._mark[1], mean)
        self._mark, self._cells = now, cells


def _redirect_output(path: Path) -> None:
    """Everything this process prints goes to its log, so that it cannot tear the runner's progress bars.

    Raises:
        WriteError: there can be none.
    """
    try:  # not waiting for whoever reads a pipe
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    except OSError as e:
        raise WriteError.of(path, e) from e
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    log = StandardError("%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.basicConfig(level=logging.INFO, handlers=[log], force=True)
    logger.info("process %d starts: %s", os.getpid(), json.dumps({"folder": path.parent.name}))


if __name__ == "__main__":
    sys.exit(main())
