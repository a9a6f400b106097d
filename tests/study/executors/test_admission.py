"""Which cell begins where, and which begins again alone; without processes, by hand-derived orders."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from scaleprior.study.executors import admission
from scaleprior.study.executors.admission import Admission, Attempt, Place, oom_kills
from scaleprior.study.failure import Failure


def gpus(*limits: int) -> list[Place]:
    return [Place(f"GPU {n}", str(n), limit, limit) for n, limit in enumerate(limits)]


def folders(tmp_path: Path, count: int) -> list[Path]:
    found = [tmp_path / chr(ord("a") + n) for n in range(count)]
    for folder in found:
        folder.mkdir()
    return found


def begun(cells: Admission) -> dict[str, Attempt]:
    return {attempt.folder.name: attempt for attempt in cells.begin()}


def running(places: Sequence[Place]) -> list[str]:
    return ["".join(attempt.folder.name for attempt in place.running) for place in places]


def ran_out(cells: Admission, attempt: Attempt, memory: str = "gpu") -> bool:
    Failure("memory", memory).save(attempt.folder)
    (attempt.folder / "running").touch()
    return cells.end(attempt, 1)


def test_cells_go_where_the_fewest_are(tmp_path: Path) -> None:
    places = gpus(2, 2)
    cells = Admission(places, folders(tmp_path, 6), most=4)
    first = begun(cells)
    assert running(places) == ["ac", "bd"]
    assert not cells.end(first["d"], 0)
    begun(cells)
    assert (running(places), [f.name for f in cells.waiting]) == (["ac", "be"], ["f"])


def test_no_more_run_at_once_than_asked_for_whatever_the_places_take(tmp_path: Path) -> None:
    places = gpus(4, 4)
    cells = Admission(places, folders(tmp_path, 6), most=3)
    begun(cells)
    assert running(places) == ["ac", "b"]


def test_a_cell_without_memory_runs_alone_when_the_others_are_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It gives no error to anybody, it waits for those that wait, and its GPU takes one fewer from then on."""
    places = gpus(3)
    cells = Admission(places, folders(tmp_path, 6), most=3)
    first = begun(cells)
    assert running(places) == ["abc"]
    assert ran_out(cells, first["b"])
    assert list((tmp_path / "b").iterdir()) == []
    assert caplog.messages == ["GPU 0: memory ran out for cell b beside others; it goes on alone later, "
                               "and from now on 2 cells at once"]  # fmt: skip
    assert begun(cells) == {}
    cells.end(first["a"], 0)
    later = begun(cells)
    assert running(places) == ["cd"]
    cells.end(first["c"], 0)
    later |= begun(cells)
    cells.end(later["d"], 0)
    later |= begun(cells)
    assert running(places) == ["ef"]
    cells.end(later["e"], 0)
    assert begun(cells) == {}  # f is there still
    assert not cells.done
    cells.end(later["f"], 0)
    (alone,) = begun(cells).values()
    assert (alone.folder.name, alone.beside, running(places)) == ("b", 0, ["b"])
    assert not ran_out(cells, alone)  # alone it is an error, which stays
    assert Failure.read(tmp_path / "b") == Failure("memory", "gpu")
    assert cells.done


def test_each_gpu_has_one_that_runs_alone(tmp_path: Path) -> None:
    places = gpus(2, 2)
    cells = Admission(places, folders(tmp_path, 4), most=4)
    first = begun(cells)
    assert ran_out(cells, first["a"])
    assert ran_out(cells, first["b"])
    assert [place.limit for place in places] == [1, 1]
    assert begun(cells) == {}
    cells.end(first["d"], 0)
    begun(cells)
    assert running(places) == ["c", "a"]
    cells.end(first["c"], 0)
    begun(cells)
    assert running(places) == ["b", "a"]


def test_a_neighbour_that_has_just_ended_had_its_part(tmp_path: Path) -> None:
    places = gpus(2)
    cells = Admission(places, folders(tmp_path, 2), most=2)
    first = begun(cells)
    assert not cells.end(first["a"], 0)
    assert ran_out(cells, first["b"])
    assert places[0].limit == 1


def test_neighbours_on_another_gpu_have_no_part_of_its_memory_but_of_the_hosts(tmp_path: Path) -> None:
    places = gpus(1, 1)
    cells = Admission(places, folders(tmp_path, 2), most=2)
    first = begun(cells)
    assert ran_out(cells, first["a"], "host")
    assert not ran_out(cells, first["b"], "gpu")
    (alone,) = begun(cells).values()
    assert alone.folder.name == "a"
    assert not ran_out(cells, alone, "host")


def test_for_want_of_the_machines_memory_a_cell_runs_alone_on_the_machine(tmp_path: Path) -> None:
    """It begins beside nothing, on no GPU, and beside it begins nothing."""
    places = gpus(1, 1, 1, 1)
    cells = Admission(places, folders(tmp_path, 4), most=4)
    first = begun(cells)
    assert ran_out(cells, first["a"], "host")
    assert ran_out(cells, first["b"], "host")
    assert not cells.end(first["c"], 0)
    assert begun(cells) == {}  # two may work here at once now, but d does
    assert not cells.end(first["d"], 0)
    (alone,) = begun(cells).values()
    assert begun(cells) == {}
    assert not cells.end(alone, 0)
    assert len(begun(cells)) == 1


def test_beside_a_cell_that_needs_the_machine_for_itself_none_begins_that_needs_a_gpu_for_itself(
    tmp_path: Path,
) -> None:
    cells = Admission(gpus(2, 2), folders(tmp_path, 4), most=4)
    first = begun(cells)
    assert ran_out(cells, first["a"], "host")
    assert ran_out(cells, first["c"], "gpu")
    for name in "bd":
        assert not cells.end(first[name], 0)
    (alone,) = begun(cells).values()
    assert alone.folder.name == "a"
    assert not cells.end(alone, 0)
    assert [*begun(cells)] == ["c"]


def test_what_the_system_killed_for_want_of_memory_runs_again_what_somebody_killed_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [7]
    monkeypatch.setattr(admission, "oom_kills", lambda: kills[0])
    places = [Place("this machine", None, 3, 3)]
    cells = Admission(places, folders(tmp_path, 3), most=3)
    first = begun(cells)
    assert not cells.end(first["a"], -signal.SIGKILL)
    kills[0] = 8
    assert not cells.end(first["b"], -signal.SIGTERM)
    assert cells.end(first["c"], -signal.SIGKILL)
    (alone,) = begun(cells).values()
    kills[0] = 9
    assert not cells.end(alone, -signal.SIGKILL)
    said = Failure("the system killed it for want of memory; it worked alone on this machine", "host")
    assert Failure.read(alone.folder) == said


def test_a_cell_that_the_system_gives_no_process_waits_for_others_and_alone_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = [Place("this machine", None, 3, 3)]
    cells = Admission(places, folders(tmp_path, 4), most=3)
    first: dict[str, Attempt] = {}
    for attempt in cells.begin():
        first[attempt.folder.name] = attempt
        (attempt.folder / "running").touch()
        if attempt.folder.name == "c":
            assert cells.refuse(attempt, "Too many open files")
    assert running(places) == ["ab"]
    assert [folder.name for folder in cells.waiting] == ["c", "d"]  # the longest still comes first
    assert not (first["c"].folder / "running").exists()
    said = "no process could be started for cell c beside others: Too many open files; from now on 2 cells at once"
    assert [record.message for record in caplog.records] == [said]
    for name in "ab":
        assert not cells.end(first[name], 0)
    for attempt in cells.begin():
        assert not cells.refuse(attempt, "Too many open files")
        failure = Failure.read(attempt.folder)
        assert failure == Failure("no process could be started for it: Too many open files")
    assert cells.done


def test_where_the_system_counts_no_kills_none_is_taken_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "oom_kills", lambda: None)
    cells = Admission(gpus(2), folders(tmp_path, 2), most=2)
    assert not cells.end(begun(cells)["a"], -signal.SIGKILL)


def test_the_systems_count_is_read_from_its_table() -> None:
    assert oom_kills(lambda: "pgfault 12\noom_kill 4\noom_kill_other 9\n") == 4
    assert oom_kills(lambda: "pgfault 12\n") is None

    def absent() -> str:
        raise FileNotFoundError

    assert oom_kills(absent) is None


class Rooms:
    """Room for cells that are called so, beside others."""

    def __init__(self, fitting: str) -> None:
        self.fitting = fitting

    def fits(self, place: Place, folder: Path) -> bool:
        return not place.running or folder.name in self.fitting


def test_one_that_does_not_fit_lets_a_smaller_one_pass_and_has_an_empty_gpu_at_last(tmp_path: Path) -> None:
    places = gpus(3)
    cells = Admission(places, folders(tmp_path, 4), most=3, rooms=Rooms("cd"))
    first = begun(cells)
    assert running(places) == ["acd"]
    for name in "acd":
        cells.end(first[name], 0)
    begun(cells)
    assert running(places) == ["b"]
