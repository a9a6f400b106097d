"""The process behind ``tests.processes``: it has imported what is heavy, and forks a process for every command.

It has one thread, runs no kernel and uses nothing of what it imports, so that a fork is as good as a new interpreter.
It serves a Unix socket: a connection is a command. The client sends ``Command``s with their file descriptors, gets the
process's id, and, when the process has ended, its wait status.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
# What programs of these tests import, but for what they import themselves in milliseconds once these are there.
HEAVY = (
    *("torch", "torch.distributed", "torch.multiprocessing", "torch.utils.data", "torchvision", "timm", "cv2"),
    *("scipy.optimize", "pyarrow.parquet", "pandas", "duckdb", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    *("jinja2", "rich.console", "rich.progress", "scaleprior.study.worker", "scaleprior.study.runner"),
    *(f"scaleprior.commands.{path.stem}" for path in (REPO / "scaleprior" / "commands").glob("[a-z]*.py")),
)
HEAD = struct.Struct("!i")  # the length of a request; a process's id; its wait status
MOST_FILES = 64
# Threads of libraries that survive a fork by themselves: jemalloc stops its own before one and starts it again.
_HARMLESS = {"jemalloc_bg_thd"}


def main() -> None:
    """Import, say so on stdout as JSON, and serve until stdin ends.

    What is said: address; modules, the file of each; variables of the environment that imports have set; flags that
    the interpreter has by its environment.
    """
    from tests import processes  # which knows our environment as it is now

    sys.path.pop(0)  # the empty one of `-c`
    before = dict(os.environ)
    for name in HEAVY:
        importlib.import_module(name)
    _check_threads()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind("")  # Linux chooses a name that no folder holds
    listener.listen(64)
    # SIGINT of a terminal is for those who work; SIGTERM's default stays.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items() if "." not in name}
    variables = {name: value for name, value in os.environ.items() if before.get(name) != value}
    flags = subprocess._args_from_interpreter_flags()  # pyright: ignore[reportAttributeAccessIssue]
    address = listener.getsockname().decode("latin-1")
    announced = {"address": address, "modules": files, "variables": variables, "flags": flags}
    print(json.dumps(announced), flush=True)
    gc.collect()
    gc.freeze()  # else a collection in a fork touches, and so copies, all that was imported
    command = _serve(listener)
    if command is not None:  # in a fork
        listener.close()
        processes.share_imports(announced)  # with the processes that it starts through multiprocessing
        _become(*command, variables)


def _check_threads() -> None:
    threads = {Path(f"/proc/self/task/{t}/comm").read_text().strip() for t in os.listdir("/proc/self/task")[1:]}
    if threading.active_count() > 1 or threads - _HARMLESS:
        raise RuntimeError(f"imports left threads running, which a fork does not have: {threads}")


def _serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for every connection; None at the end, a request with its file descriptors in the fork."""
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(0, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == 0:
                return None
            if key.fileobj is not listener:
                _end(selector, key.fd, *key.data)
                continue
            connection, _ = listener.accept()
            request, files = _receive(connection)
            pid = os.fork()
            if not pid:
                selector.close()  # and with it every connection of another fork
                connection.close()
                return request, files
            for file in files:
                os.close(file)
            selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
            with contextlib.suppress(OSError):  # a client that was killed meanwhile
                connection.sendall(HEAD.pack(pid))


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, files, _, _ = socket.recv_fds(connection, HEAD.size, MOST_FILES)
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(*HEAD.unpack(head))), files


def _end(selector: selectors.BaseSelector, watched: int, pid: int, connection: socket.socket) -> None:
    _, status = os.waitpid(pid, 0)
    selector.unregister(watched)
    os.close(watched)
    with contextlib.suppress(OSError), connection:
        connection.sendall(HEAD.pack(status))


def _become(request: dict[str, Any], files: list[int], variables: dict[str, str]) -> None:
    """Run the request in this fork as ``python ARGUMENTS`` would, and end; ``variables`` are there by our imports."""
    if request["session"]:
        os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _place_files(files, request["files"])
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    _take_environment({**variables, **request["env"]})  # an import sets what nobody has set
    sys.orig_argv = [sys.executable, *request["arguments"]]
    sys.stdin, sys.stdout, sys.stderr = (_reopened(stream, k) for k, stream in enumerate(_standard_streams()))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    # every new interpreter seeds this by the system's entropy; `random` does so after a fork by itself
    sys.modules["numpy"].random.seed()
    code = 0
    try:
        _run(request["arguments"])
    except BaseException as e:  # as the interpreter ends for any of them
        code = _exit_code(e)
    _finish(code)


def _place_files(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Move received descriptors to the numbers they are to have; nothing else stays open."""
    beyond = max(*numbers, *files) + 1
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, beyond) for file in files]
    for file, number in zip(moved, numbers):
        os.dup2(file, number)
    for file in set(map(int, os.listdir("/proc/self/fd"))) - set(numbers):
        with contextlib.suppress(OSError):  # the one that lists them
            os.close(file)


def _take_environment(wanted: dict[str, str]) -> None:
    old = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    ours = list(dict.fromkeys(filter(None, wanted.get("PYTHONPATH", "").split(os.pathsep))))
    sys.path[:] = [*ours, *(entry for entry in sys.path if entry not in {*old, *ours})]
    importlib.invalidate_caches()


def _standard_streams() -> tuple[io.TextIOWrapper, io.TextIOWrapper, io.TextIOWrapper]:
    return sys.stdin, sys.stdout, sys.stderr  # pyright: ignore[reportReturnType]


def _reopened(stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    """The stream as the interpreter opens it: its buffering depends on what the descriptor is."""
    mode, unbuffered = ("rb", False) if number == 0 else ("wb", stream.write_through)
    binary = open(number, mode, buffering=0 if unbuffered else -1, closefd=False)  # noqa: SIM115
    (binary if unbuffered else binary.raw).name = stream.name  # pyright: ignore[reportAttributeAccessIssue]
    opened = io.TextIOWrapper(
        binary, encoding=stream.encoding, errors=stream.errors, newline=None if number == 0 else "\n",
        line_buffering=(os.isatty(number) or number == 2) and not unbuffered, write_through=stream.write_through,
    )  # fmt: skip
    opened.mode = stream.mode  # pyright: ignore[reportAttributeAccessIssue]
    return opened


def _run(arguments: Sequence[str]) -> None:
    """``python ARGUMENTS``: of -m MODULE, -c CODE and FILE, each with what follows."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    module.__builtins__ = builtins  # pyright: ignore[reportAttributeAccessIssue]
    if arguments[0] == "-m":
        sys.argv = ["-m", *arguments[2:]]
        sys.path.insert(0, os.getcwd())
        runpy._run_module_as_main(arguments[1])  # pyright: ignore[reportAttributeAccessIssue]
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        module.__file__ = os.path.abspath(arguments[0])
        module.__cached__ = None  # pyright: ignore[reportAttributeAccessIssue]
        exec(compile(Path(arguments[0]).read_bytes(), module.__file__, "exec"), module.__dict__)


def _exit_code(error: BaseException) -> int:
    """What the interpreter prints and exits with for what a program has raised."""
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return (error.code or 0) & 0xFF
        print(error.code, file=sys.stderr)
        return 1
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:
        traceback.print_exc()
    if isinstance(error, KeyboardInterrupt):
        return -signal.SIGINT
    return 1


def _finish(code: int) -> None:
    """End as the interpreter does, but for taking every module apart, which costs a tenth of a second and more."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)
