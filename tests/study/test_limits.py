"""A study under pressure: what a cell or the runner is short of fails that cell, and is said; the others go on."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from scaleprior.errors import FailureError
from scaleprior.study import study_status
from scaleprior.study.cell import Cell
from scaleprior.study.executors import LocalExecutor
from scaleprior.study.failure import Failure
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.runner import _run_missing
from scaleprior.study.view import StudyView
from scaleprior.study.worker import run_cell
from tests import processes
from tests.study.test_arms import Nothing
from tests.study.test_damage import CELL, forked
from tests.study.test_folder import claimed


def _open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


def _pages(which: int) -> int:
    """Of this process, as statm counts them: 0 the address space, 1 what is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[which])


@contextlib.contextmanager
def _descriptors(free: int) -> Iterator[None]:
    """All but so many are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, _open_files())) + free + 8, hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for handle in taken[-free:]:
            os.close(handle)
        del taken[-free:]
        yield
    finally:
        for handle in taken:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _file_sizes(most: int) -> Iterator[None]:
    """As a full disk: no file takes more than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def _memory(spare: int) -> Iterator[None]:
    """So many bytes more than this process has."""
    most = _pages(0) * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    yield


LIMITS = {
    "descriptors": lambda: _descriptors(8),  # seven are the log's, the lock's and the spare ones
    "disk": lambda: _file_sizes(100_000),
    "memory": lambda: _memory(64 << 20),
}


def run_limited(limit: str, folder: str) -> int:
    """In a process of its own: what others have left of its memory would be enough."""
    with LIMITS[limit]():
        return run_cell(Path(folder))


@pytest.mark.parametrize(
    ("limit", "said", "memory"),
    [
        ("descriptors", "Too many open files", ""),
        ("disk", r"cannot write .*: File too large \(.* needed\)", ""),
        ("memory", "; the machine's memory (ran out|may have run out)$", "host"),
    ],
)
def test_a_cell_that_is_short_of_something_says_of_what(
    finished: Path, tmp_path: Path, limit: str, said: str, memory: str
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out", symlinks=True))
    cell = study_status(out).cells[0]
    (cell.folder / "result.json").unlink()
    for stage in ("finetune", "evaluate"):
        shutil.rmtree(cell.folder / stage)
    program = "import sys; from tests.study.test_limits import run_limited; sys.exit(run_limited(*sys.argv[1:]))"
    code = processes.run([sys.executable, "-c", program, limit, cell.folder]).returncode
    if limit == "memory" and code in (-signal.SIGSEGV, -signal.SIGABRT):
        pytest.skip("a library that looks at no allocation came first: the runner says by which signal the cell ended")
    assert code == 1
    failure = Failure.read(cell.folder)
    assert failure is not None
    assert re.search(said, failure.error)
    assert failure.memory == memory
    assert failure.error.isprintable()
    assert [status.state for status in study_status(out).cells] == ["failed", "done", "done", "done"]


def _cells(count: int) -> tuple[Cell, ...]:
    """Cells whose config is not there: the process of each ends as soon as it has begun."""
    return tuple(replace(CELL, key=f"{n:016x}"[::-1], seed=n) for n in range(count))


def _run(out: Path, cells: Sequence[Cell], jobs: int, views: list[StudyView]) -> int:
    executor = LocalExecutor(jobs=jobs, gpus=0)
    return _run_missing(StudyFolder(out), StudyRecord("a", "1", cells=tuple(cells)), executor, views.append)


@pytest.mark.slow
def test_the_runner_is_after_fifty_cells_what_it_was(tmp_path: Path) -> None:
    """Real processes: no descriptor is left of them, and no memory that grows with their number."""
    _run(tmp_path / "warm", _cells(2), 2, [])
    gc.collect()
    files, pages = len(_open_files()), _pages(1)
    last: list[StudyView] = []
    assert _run(tmp_path / "out", _cells(50), 4, _Last(last)) == 50
    assert [status.state for status in last[0].cells] == ["failed"] * 50
    assert all("c.yaml" in status.error for status in last[0].cells)
    gc.collect()
    assert len(_open_files()) == files
    assert (_pages(1) - pages) * resource.getpagesize() < 4 << 20


class _Last(list[StudyView]):
    """Keeps the last view alone, as a display does."""

    def __init__(self, place: list[StudyView]) -> None:
        super().__init__()
        self._place = place

    def append(self, view: StudyView, /) -> None:
        self._place[:] = [view]


@pytest.mark.slow
def test_where_there_is_no_process_for_a_cell_it_waits_for_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Alone it fails, with the system's words; in both cases the study goes to its end."""
    _run(tmp_path / "warm", _cells(1), 1, [])  # the server that forks has its descriptors
    views: list[StudyView] = []
    with _descriptors(12):
        _run(tmp_path / "few", _cells(4), 4, views)
    assert all("c.yaml" in status.error for status in views[-1].cells)
    said = [record.message for record in caplog.records if "no process could be started" in record.message]
    assert said
    assert re.search(r"for cell \S+ beside others: .*Too many open files.*; from now on \d cells? at once", said[0])
    with _descriptors(2):
        _run(tmp_path / "none", _cells(2), 2, views)
    assert len(views[-1].cells) == 2
    for status in views[-1].cells:
        assert status.error.startswith("no process could be started for it: [Errno 24] Too many open files")


class Full(Nothing):
    """On a disk that is full from the first cell on."""

    def run(
        self, folders: Sequence[Path], *, on_start: Callable[[Path], None], on_poll: Callable[[], None]
    ) -> Iterator[tuple[Path, int]]:
        for each in super().run(folders, on_start=on_start, on_poll=on_poll):
            with _file_sizes(0):
                yield each


def test_a_disk_that_fills_up_ends_no_study(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The runner cannot even say why a cell failed, but in its log."""
    record = StudyRecord("a", "1", cells=_cells(3))
    started: list[Path] = []
    with caplog.at_level(logging.ERROR):
        assert _run_missing(StudyFolder(tmp_path), record, Full(started), None) == 3
    assert len(started) == 3
    for folder in started:
        said, _ = [record.message for record in caplog.records if f"cell {folder.name} failed" in record.message]
        assert "ended with exit code 1 without a result" in said
        assert f"cannot write {folder / 'error.json'}: File too large" in said
        assert {path.name for path in folder.iterdir()} == {"cell.json"}


@contextlib.contextmanager
def _open_to_all() -> Iterator[Path]:
    """A folder that other users may enter, as those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _as_nobody(work: Callable[[], int]) -> int:
    """``work`` in a process that may not write what others own."""

    def unprivileged() -> int:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setegid(65534)
            os.seteuid(65534)
        return work()

    return forked(unprivileged)


def test_folders_that_cannot_be_written_are_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with _open_to_all() as root:
        claimed(root / "study")
        folder = StudyFolder(root / "study").cell(CELL)
        folder.mkdir(parents=True)
        CELL.save(folder)
        (root / "study" / ".lock").chmod(0o600)
        for place in (folder, root / "study" / "cells", root / "study"):
            place.chmod(0o555)

        def refused() -> int:
            for out in (root / "study", root / "new"):
                with pytest.raises(FailureError, match=rf"^cannot write {out}: Permission denied; choose another out$"):
                    claimed(out)
            assert StudyFolder(root / "study").busy() is False
            assert study_status(root / "study").cells == ()
            assert run_cell(folder) == 1
            lock, log, error = (record.message for record in caplog.records)
            assert lock == f"{root / 'study' / '.lock'} does not say whether a run is at work: Permission denied"
            assert log.startswith(f"cannot write {folder / 'log.txt'}: Permission denied")
            assert error.startswith(f"cell {folder.name} failed: {log}; and cannot write {folder / 'error.json'}: Perm")
            with pytest.raises(FailureError, match=r"^cannot write .*cell\.json: Permission denied"):
                _run_missing(StudyFolder(root / "study"), StudyRecord("a", "1", cells=(CELL,)), Nothing([]), None)
            return 0

        caplog.clear()
        try:
            assert _as_nobody(refused) == 0
        finally:
            for place in (root / "study", root / "study" / "cells", folder):
                place.chmod(0o755)
