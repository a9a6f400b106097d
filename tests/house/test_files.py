"""Atomic writing: the old file or the new one, never something between."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scaleprior.errors import FailureError, UserError
from scaleprior.files import atomic_path, file_sha256, remove_leftovers, write_csv, write_json, write_text
from scaleprior.parsing import read_json
from tests import processes


def test_content_and_ordinary_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"x": [1, None]})
    assert read_json(tmp_path / "new" / "a.json") == {"x": [1, None]}
    (tmp_path / "plain").touch()
    assert (tmp_path / "new" / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
    write_csv(tmp_path / "r.csv", ["a", "b"], [{"a": 1, "b": None}, {"a": 2.5, "b": "x,y"}])
    assert (tmp_path / "r.csv").read_text() == 'a,b\n1,\n2.5,"x,y"\n'
    write_text(tmp_path / "abc", "abc")
    assert (
        file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    said = r"cannot write .*a\.txt: No space left on device \(3 bytes needed, .* free\); free space and run again$"
    with pytest.raises(FailureError, match=said):
        write_text(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []


def test_what_is_durable_is_on_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new folders' names, the content, and once it has its name, that name."""
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        events.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).relative_to(tmp_path)}"[:13])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"name {b.name}"), replace(a, b)))
    write_text(tmp_path / "a" / "b" / "c", "new")
    assert events == ["flush .", "flush a", "flush a/b/.c.", "name c", "flush a/b"]
    del events[:]
    write_text(tmp_path / "a" / "b" / "d", "new", durable=False)
    assert events == ["name d"]


def test_nan_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nan|NaN|JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_bad_json_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a":\n oops}')
    with pytest.raises(UserError, match=r"hierarchy .*a.json is not JSON: line 2"):
        read_json(tmp_path / "a.json", what="hierarchy")
    with pytest.raises(UserError, match="hierarchy not found"):
        read_json(tmp_path / "b.json", what="hierarchy")


def test_a_killed_writer_leaves_whole_files(tmp_path: Path) -> None:
    """A process that rewrites a file for ever is killed at random moments; what is there is always complete."""
    code = (
        "import sys; from scaleprior.files import write_json\n"
        "n = 0\n"
        "while True:\n    n += 1; write_json(sys.argv[1], [n] * 20000, durable=n % 2 == 0)\n"
    )
    path = tmp_path / "a.json"
    for delay in (0.0, 0.013, 0.029, 0.041):
        process = processes.start([sys.executable, "-c", code, path], stdout=None, stderr=None)
        processes.wait_until(path.exists, process)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        values = read_json(path)
        assert len(values) == 20000
        assert len(set(values)) == 1
        remove_leftovers(tmp_path)
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def test_what_another_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    """A runner writes sharing.json into a cell's folder while the cell tidies that up; both have to succeed."""
    with atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("1")
        (tmp_path / ".b.json.killed.tmp").touch()
        command = f"from scaleprior.files import remove_leftovers; remove_leftovers({str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", command], check=True)
        remove_leftovers(tmp_path)  # and a thread of the writer's own process
        assert list(tmp_path.iterdir()) == [temporary]
    assert (tmp_path / "a.json").read_text() == "1"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_tidying_waits_for_no_pipe_and_follows_no_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".a.tmp")
    (tmp_path / "kept").touch()
    (tmp_path / ".b.tmp").symlink_to(tmp_path / "kept")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.tmp", ".b.tmp", "kept"]


def test_writing_and_tidying_at_once_loses_nothing(tmp_path: Path) -> None:
    """Also in the moment between a temporary file's making and its lock."""
    stop, writers = threading.Event(), 2

    def tidy() -> None:
        while not stop.is_set():
            remove_leftovers(tmp_path)

    def write(name: str) -> None:
        for n in range(500):
            write_json(tmp_path / name, n, durable=False)

    tidier = threading.Thread(target=tidy)
    tidier.start()
    try:
        with ThreadPoolExecutor(writers) as pool:
            list(pool.map(write, [f"{n}.json" for n in range(writers)]))  # raises what a writer raised
    finally:
        stop.set()
        tidier.join()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.json" for n in range(writers)]
    assert [read_json(tmp_path / f"{n}.json") for n in range(writers)] == [499] * writers
