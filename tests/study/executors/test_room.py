"""How many cells a GPU is found to hold: a clock, GPUs and cells' words that a test makes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scaleprior.study.executors import room
from scaleprior.study.executors.admission import Admission, Attempt, Place
from scaleprior.study.executors.room import Room
from scaleprior.study.sharing import CellMemory
from tests.study.executors.conftest import GIB, Gpus, cell_folder

CEILING = 8


class Machine:
    """One GPU, cells that wait for it, and time that goes by."""

    def __init__(self, tmp_path: Path, gpus: Gpus, archs: str) -> None:
        self.now = 0.0
        self.gpus = gpus
        self.place = Place("GPU 0", "0", 1, CEILING)
        names = {"s": "R-50", "l": "R-152"}
        folders = [cell_folder(tmp_path, f"{n}{a}", arch=names[a], seed=n) for n, a in enumerate(archs)]
        self.room = Room([self.place], gpus, clock=lambda: self.now)
        self.cells = Admission([self.place], folders, most=CEILING, rooms=self.room)

    def begin(self) -> list[Attempt]:
        return list(self.cells.begin())

    def works(self, attempt: Attempt, gib: float, peak: float | None = None) -> None:
        CellMemory(int(gib * GIB), int((peak or gib) * GIB)).save(attempt.folder)

    def first_works(self, gib: float, peak: float | None = None) -> None:
        (first,) = self.begin()
        self.works(first, gib, peak)

    def pass_time(self, seconds: float = 10.0) -> None:
        for _ in range(round(seconds / 0.25)):
            self.now += 0.25
            self.room.observe(len(self.cells.waiting))

    @property
    def running(self) -> str:
        return "".join(attempt.folder.name[-1] for attempt in self.place.running)


def test_the_first_cell_is_alone_until_it_has_been_at_work_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(tmp_path, Gpus("0", busy=35), "ssssss")
    (first,) = machine.begin()
    machine.pass_time(60)  # it loads its data
    assert machine.begin() == []
    machine.works(first, 9.1)
    machine.pass_time(2)
    assert machine.begin() == []
    machine.pass_time(8)
    machine.begin()
    assert machine.running == "ss"  # 90 / 35 is 2.6
    assert caplog.messages == [
        "GPU 0: 2 cells at once: the largest took 9.1 GiB of 80 GiB, utilisation 35 % with 1",
    ]


def test_the_number_rises_until_the_gpu_is_busy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(tmp_path, Gpus("0", busy=40), "ssssss")
    for busy, count in ((40, 2), (70, 3), (80, 4), (95, 4)):
        machine.gpus.busy = busy
        for attempt in machine.begin():
            machine.works(attempt, 5)
        machine.pass_time()
        machine.begin()
        assert (len(machine.running), machine.place.limit) == (count, count)
        for attempt in machine.place.running:
            machine.works(attempt, 5)
    assert len(caplog.messages) == 3


def test_a_gpu_that_computes_all_the_time_keeps_its_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(tmp_path, Gpus("0", busy=97), "ss")
    machine.first_works(5)
    machine.pass_time(60)
    assert machine.begin() == []
    assert caplog.messages == ["GPU 0: 1 cell at once: the largest took 5 GiB of 80 GiB, utilisation 97 % with 1"]


@pytest.mark.parametrize(("peak", "count"), [(9.0, 7), (17.0, 4), (23.0, 3), (40.0, 1)])
def test_no_more_begin_than_their_peaks_have_room_for(tmp_path: Path, peak: float, count: int) -> None:
    """Of 80 GiB 8 % are spared, and each process takes one beside its peak: 73.6 // (peak + 1)."""
    machine = Machine(tmp_path, Gpus("0", busy=5), "s" * 9)
    machine.first_works(1.0, peak)  # it may come to that again
    machine.pass_time()
    machine.begin()
    assert len(machine.running) == count
    assert machine.place.limit == CEILING


def test_what_others_took_of_the_gpu_is_no_room(tmp_path: Path) -> None:
    """30 GiB are free: less the 6.4 that are spared, 23.6 for cells of 10; the one that runs has its own already."""
    machine = Machine(tmp_path, Gpus("0", busy=5, free=30), "s" * 9)
    machine.first_works(9)
    machine.pass_time()
    machine.begin()
    assert len(machine.running) == 3


def test_cells_that_grow_still_have_their_room_kept(tmp_path: Path) -> None:
    """Of 30 free GiB the one that runs, now at 2 of 10, needs 8: 30 - 6.4 - 8 is room for one of 10."""
    machine = Machine(tmp_path, Gpus("0", busy=5, free=30), "s" * 9)
    machine.first_works(1, 9)
    machine.pass_time()
    machine.begin()
    assert len(machine.running) == 2


def test_a_kind_that_nobody_measured_counts_as_the_largest_and_begins_one_at_a_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Gpus("0", busy=5), "sllll")
    machine.first_works(9)
    machine.pass_time()
    (large,) = machine.begin()
    assert machine.running == "sl"
    assert machine.begin() == []  # who knows what the first comes to
    machine.works(large, 29)
    machine.pass_time()
    machine.begin()
    assert machine.running == "sll"  # 10 + 30 + 30 of 73.6


def test_a_small_cell_passes_a_large_one_for_which_there_is_no_room(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Gpus("0", busy=5), "llss")
    machine.first_works(44)
    machine.pass_time()
    assert machine.begin() == []  # of small ones nothing is known: they may be as large
    small = machine.cells.waiting[1]
    machine.room._peaks[machine.room._kind(small)] = 9 * GIB
    machine.begin()
    assert machine.running == "lss"


def test_where_nobody_tells_the_utilisation_memory_and_cores_decide(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine(tmp_path, Gpus("0", busy=None), "s" * 9)
    machine.first_works(9.0)
    machine.pass_time()
    machine.begin()
    assert len(machine.running) == 7
    assert caplog.messages == [
        "GPU 0: 7 cells at once: the largest took 9 GiB of 80 GiB, utilisation unknown, for neither nvidia-ml-py nor "
        "nvidia-smi answers"
    ]


def test_a_cell_that_uses_no_gpu_leaves_it_to_others(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Gpus("0", busy=0), "s" * 9)
    machine.first_works(0)
    machine.pass_time()
    machine.begin()
    assert len(machine.running) == CEILING


def test_the_limit_does_not_rise_above_where_memory_ran_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path, Gpus("0", busy=5), "s" * 9)
    machine.place.ceiling = 3
    machine.first_works(1)
    machine.pass_time()
    machine.begin()
    assert (len(machine.running), machine.place.limit) == (3, 3)


def test_a_slow_answer_takes_no_more_than_a_tenth_of_the_runners_time(tmp_path: Path) -> None:
    class Slow(Gpus):
        def read(self, name: str):
            machine.now += 2.0
            return super().read(name)

    gpus = Gpus("0", busy=97)
    machine = Machine(tmp_path, gpus, "ss")
    machine.first_works(5)
    slow = Slow("0", busy=97)
    machine.room._devices = slow
    begun = machine.now
    machine.pass_time(200)
    assert 2.0 * len(slow.asked) <= room._ASKING * (machine.now - begun) + 2.0
    assert len(slow.asked) > 5
