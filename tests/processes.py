"""Programs in processes of their own that share one import of torch.

Importing torch, torchvision and timm costs a process more CPU seconds than most programs of these tests. ``run``,
``start`` and ``Popen`` are those of ``subprocess``, but a Python program is forked from a process that has imported
them already, the zygote: with its own id, environment, files, signals, random state and end. All that differs from a
new interpreter is that modules are there already, that hashes of strings are salted alike, and that modules are not
taken apart at the end. A test of start-up, of the order of sets, or of what is imported, uses ``subprocess``. What the
zygote cannot give is started anew: other interpreters and flags, an environment that differs in what modules may read
at import, a path with other modules than those that were imported.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import multiprocessing.util
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.zygote import HEAD, REPO

T = TypeVar("T")

# Variables that are read when they are needed, never at an import: with any others a program starts anew.
_READ_LATE = {
    *("COLUMNS", "PYTEST_CURRENT_TEST", "PYTHONPATH", "DETECTRON2_DATASETS", "no_proxy", "CUDA_VISIBLE_DEVICES"),
    "OPENCV_OPENCL_RUNTIME",  # which Detectron2 sets where it is imported
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),  # which torch sets where it compiles
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}
_READ_LATE_PREFIX = "SCALEPRIOR_"
# The tests' own, before a test changes it: the zygote's environment.
_ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
}
# What ``subprocess.Popen._execute_child`` is given after the environment; before Python 3.11 without the last.
_REST = (
    *("startupinfo", "creationflags", "shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"),
    *("restore_signals", "gid", "gids", "uid", "umask", "start_new_session", "process_group"),
)
_waitpid = os.waitpid
_spawn = multiprocessing.util.spawnv_passfds
_children: dict[int, _Child] = {}
_announced: dict[str, Any] | None = None


class Popen(subprocess.Popen):
    """``subprocess.Popen``; a fork of the zygote where that can be the program."""

    _child: _Child | None = None

    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: Any, pass_fds: Any, cwd: Any, env: Any, *rest: Any
    ) -> None:
        given = dict(zip(_REST, rest))
        plain = not (executable or preexec_fn or given["shell"]) and close_fds and given["restore_signals"]
        plain = plain and given["gid"] is given["uid"] is given["gids"] is None and given["umask"] < 0
        environment = os.environ if env is None else env
        folder = os.path.abspath(cwd or os.getcwd())
        if not plain or given.get("process_group", -1) not in (-1, None) or not _can_be(args, environment, folder):
            super()._execute_child(args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest)
            return
        streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        files = {number: number if fd == -1 else fd for number, fd in enumerate(streams)}
        files |= {fd: fd for fd in pass_fds}
        self._child = _Child(args[1:], environment, folder, files, session=given["start_new_session"])
        self.pid = self._child.pid
        self._child_created = True
        self._close_pipe_fds(*rest[3:9])  # pyright: ignore[reportAttributeAccessIssue]

    def _internal_poll(self, _deadstate: int | None = None, **rest: Any) -> int | None:
        if self._child is None:
            return super()._internal_poll(_deadstate, **rest)  # pyright: ignore[reportAttributeAccessIssue]
        if self.returncode is None and self._child.ended(0):
            self._handle_exitstatus(self._child.status)  # pyright: ignore[reportAttributeAccessIssue]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._child is None:
            return super()._try_wait(wait_flags)  # pyright: ignore[reportAttributeAccessIssue]
        return self._child.wait(wait_flags)


def run(
    command: Sequence[object], *, input: str | None = None, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """``subprocess.run`` with ``start``'s options. The program has all the time it needs."""
    with start(command, stdin=None if input is None else subprocess.PIPE, **options) as process:
        try:
            out, err = process.communicate(input)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def start(command: Sequence[object], **options: Any) -> Popen:
    """``Popen`` of a command's words, with pipes for what it prints, as text, and the ``environment`` of programs."""
    words = [str(word) for word in command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return Popen(words, **{**pipes, "env": environment(), **options})


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def in_two(program: str, argument: object) -> list[list[Any]]:
    """What each of two processes that find each other says: the lines of JSON that ``program`` prints.

    Args:
        argument: of the program, as JSON.
    """
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", program, json.dumps(argument)]
    started = [start(command, env=environment(**place, RANK=rank)) for rank in "01"]
    said = []
    try:
        for process in started:
            output, errors = process.communicate()
            assert process.returncode == 0, errors
            said.append([json.loads(line) for line in output.splitlines()])
    finally:
        for process in started:  # one would wait for the other that failed
            process.kill()
    return said


def environment(**changes: str) -> dict[str, str]:
    """The environment of the tests' programs: what the tests see (a checkout of Detectron2, say), they see, too."""
    path = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))
    here = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    if "PYTHONHASHSEED" not in _ENVIRONMENT:
        here.pop("PYTHONHASHSEED", None)  # left by Detectron2's seeding of this process, where it has no effect
    return {**here, **changes}


def wait_until(condition: Callable[[], T], process: subprocess.Popen | None = None) -> T:
    """What ``condition`` returns, as soon as that is true.

    A busy machine takes as long as it takes: the wait fails when ``process`` has ended before; that nothing happens for
    very long is for the time limit of the suite.
    """
    while True:
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        if ended:
            said = process.stderr.read() if process.stderr else ""
            raise AssertionError(f"the process ended with code {process.returncode} before that happened: {said}")
        time.sleep(0.01)


def share_imports(zygote: dict[str, Any] | None = None) -> None:
    """Let multiprocessing's "spawn" and "forkserver" start their processes by the zygote, too, in this process.

    Args:
        zygote: what the running one has announced, in its forks.
    """
    global _announced
    _announced = zygote
    multiprocessing.util.spawnv_passfds = _spawn_process
    os.waitpid = _wait_for_process


def _spawn_process(path: str | bytes, arguments: Sequence[str | bytes], files: Sequence[int]) -> int:
    program, *words = [os.fsdecode(path), *map(os.fsdecode, arguments[1:])]
    if not _forks() or any("resource_tracker" in word for word in words):  # which needs nothing of what is heavy
        return _spawn(path, arguments, files)
    flags = _zygote()["flags"]
    words = words[len(flags) :] if words[: len(flags)] == flags else words
    if not _can_be([program, *words], os.environ, os.getcwd()):
        return _spawn(path, arguments, files)
    child = _Child(words, os.environ, os.getcwd(), {int(fd): int(fd) for fd in (0, 1, 2, *files)})
    _children[child.pid] = child
    return child.pid


def _wait_for_process(pid: int, options: int, /) -> tuple[int, int]:
    return _children[pid].wait(options) if pid in _children else _waitpid(pid, options)


class _Child:
    """A fork of the zygote. Attribute ``status`` is its wait status once it has ended."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: str, files: Mapping[int, int],
        *, session: bool = False,
    ) -> None:  # fmt: skip
        """``files``: the descriptors that it has, by number there."""
        umask = os.umask(0)
        os.umask(umask)
        request = {"arguments": [os.fspath(word) for word in arguments], "cwd": folder, "env": dict(environment),
                   "files": list(files), "session": session, "umask": umask}  # fmt: skip
        data = json.dumps(request).encode()
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(_zygote()["address"].encode("latin-1"))
        socket.send_fds(self._connection, [HEAD.pack(len(data))], list(files.values()))
        self._connection.sendall(data)
        self.pid = self._number()
        self.status: int | None = None

    def ended(self, timeout: float | None) -> bool:
        """Whether it has ended, within ``timeout`` seconds; None waits for it."""
        if self.status is None and select.select([self._connection], [], [], timeout)[0]:
            self.status = self._number()
            self._connection.close()
        return self.status is not None

    def wait(self, options: int) -> tuple[int, int]:
        """``os.waitpid`` of it."""
        if self.ended(0 if options & os.WNOHANG else None):
            assert self.status is not None
            return self.pid, self.status
        return 0, 0

    def _number(self) -> int:
        data = self._connection.recv(HEAD.size)
        if len(data) != HEAD.size:
            raise RuntimeError("the process that has imported torch for all others is gone")
        return HEAD.unpack(data)[0]


def _can_be(words: Any, environment: Mapping[str, str], folder: str) -> bool:
    """Whether a fork of the zygote, in ``folder``, is no different from the program that starts anew."""
    if isinstance(words, (str, bytes)) or len(words) < 2 or words[0] != sys.executable:
        return False
    first = os.fspath(words[1])
    if first.startswith("-") and first not in ("-m", "-c"):
        return False
    if not _forks():
        return False
    by_import = _zygote()["variables"]
    for name in _read_early(environment):
        if environment.get(name) not in (_ENVIRONMENT.get(name), by_import.get(name)):
            return False
    begin = folder if first == "-m" else "" if first == "-c" else os.path.dirname(os.path.join(folder, first))
    places = [begin or folder, *environment.get("PYTHONPATH", "").split(os.pathsep)]
    return not any(_hides_imported(place) for place in places)


def _read_early(environment: Mapping[str, str]) -> set[str]:
    names = environment.keys() | _ENVIRONMENT.keys()
    return {name for name in names - _READ_LATE if not name.startswith(_READ_LATE_PREFIX)}


def _hides_imported(place: str) -> bool:
    """Whether a folder on the path has another module of the name of one that the zygote has, or a sitecustomize."""
    with contextlib.suppress(OSError):
        modules = _zygote()["modules"]
        for entry in os.listdir(place):
            name, kind = os.path.splitext(entry)
            if name in ("sitecustomize", "usercustomize"):
                return True
            file = modules.get(name)
            if file and kind in ("", ".py", ".so") and Path(place).resolve() not in Path(file).resolve().parents:
                return True
    return False


@functools.cache
def _forks() -> bool:
    """Whether this system has what the zygote needs: Linux has."""
    if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _zygote() -> dict[str, Any]:
    """What the zygote has announced. The first who needs it starts it, and it lives as long as that process."""
    global _announced
    if _announced is None:
        _announced = _start_zygote()
    return _announced


def _start_zygote() -> dict[str, Any]:
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.zygote import main; main()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, cwd=REPO, env=_ENVIRONMENT,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        said.seek(0)
        raise RuntimeError(f"the process that imports torch for all others did not start: {said.read().decode()}")

    def stop() -> None:
        process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        process.wait()

    atexit.register(stop)
    return json.loads(line)
