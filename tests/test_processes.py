"""Programs that share an import differ in nothing else from those that start anew."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.processes import REPO, environment, run, start, wait_until

PYTHON = sys.executable

TELL = """
import json, os, random, resource, signal, sys, threading
text = sys.stdin.read()
print(json.dumps({
    "argv": sys.argv, "orig": sys.orig_argv, "path": sys.path, "cwd": os.getcwd(), "text": text, "name": __name__,
    "variables": dict(os.environ),
    "main": sys.modules["__main__"].__dict__ is globals(), "file": globals().get("__file__"),
    "files": sorted(os.listdir("/proc/self/fd"))[:3], "open": len(os.listdir("/proc/self/fd")),
    "streams": [(s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.fileno())
                for s in (sys.stdin, sys.stdout, sys.stderr)],
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)],
    "threads": threading.active_count(), "warnings": sys.warnoptions, "umask": os.umask(0), "session": os.getsid(0),
    "group": os.getpgid(0), "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
}, sort_keys=True, default=str))
print("to stderr", file=sys.stderr)
sys.exit(3)
"""


@pytest.fixture
def as_module(tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)


@pytest.mark.parametrize(
    "words", [["-c", TELL, "a", "b"], ["tell.py", "--x"], ["-m", "tell", "y"]], ids=["-c", "file", "-m"]
)
def test_a_program_sees_what_it_sees_when_it_starts_anew(words: list[str], as_module: None, tmp_path: Path) -> None:
    known = {"input": "what is read\n", "cwd": tmp_path, "env": environment(SCALEPRIOR_X="1", RANK="7")}
    shared = run([PYTHON, *words], **known)
    anew = subprocess.run([PYTHON, *words], capture_output=True, text=True, check=False, **known)
    told = json.loads(shared.stdout)
    for name in set(told["variables"]) - set(known["env"]):  # imports have set it
        assert told["variables"].pop(name) in processes._zygote()["variables"].values()
    assert told == json.loads(anew.stdout)
    assert (shared.stderr, shared.returncode) == (anew.stderr, anew.returncode) == ("to stderr\n", 3)


ENDS = {
    "returns": "pass",
    "is done": "import sys; sys.exit()",
    "says a number": "import sys; sys.exit(300)",
    "says a reason": "import sys; sys.exit('because')",
    "fails": "def f():\n    raise ValueError('no')\nf()",
    "is interrupted": "raise KeyboardInterrupt",
    "is killed": "import os; os.kill(os.getpid(), 9)",
    "ends at once": "import os; print('lost', end=''); os._exit(4)",
    "has something to do at the end": "import atexit; atexit.register(print, 'bye')",
    "has a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(.05), print('late'))).start()",
    "does not compile": "def",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_it_ends_as_one_that_starts_anew(code: str) -> None:
    shared = run([PYTHON, "-c", code])
    anew = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)
    assert (shared.returncode, shared.stdout, shared.stderr) == (anew.returncode, anew.stdout, anew.stderr)


def test_it_is_a_process_with_an_import_that_costs_nothing() -> None:
    code = "import sys, os; print('torch' in sys.modules, os.getpid(), flush=True); sys.stdin.read()"
    with start([PYTHON, "-c", code], stdin=subprocess.PIPE) as process:
        there, pid = process.stdout.readline().split()
        assert (there, int(pid)) == ("True", process.pid)
        assert process.pid != os.getpid()
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM
    assert not Path(f"/proc/{pid}").exists()


def test_each_has_a_random_state_of_its_own() -> None:
    code = "import numpy, random; print(numpy.random.rand(), random.random())"
    one, two = (run([PYTHON, "-c", code]).stdout.split() for _ in range(2))
    assert not set(one) & set(two)


def _tell(queue: Any) -> None:
    queue.put(("torch" in sys.modules, os.getpid(), os.getppid()))
    sys.exit(5)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_multiprocessing_shares_it_too(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)  # Detectron2's seeding leaves it, and with it all start anew
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_tell, args=(queue,))
    process.start()
    there, pid, parent = queue.get()
    process.join()
    assert (there, pid, process.exitcode) == (True, process.pid, 5)
    assert parent != os.getpid()


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([PYTHON, "-W", "error", "-c", TELL], {}),
        (["env", PYTHON, "-c", TELL], {}),
        ([PYTHON, "-c", TELL], {"env": environment(OMP_NUM_THREADS="2")}),
        ([PYTHON, "-c", TELL], {"env": environment(PYTHONHASHSEED="0")}),
        ([PYTHON, "-c", TELL], {"env": environment(HF_HUB_OFFLINE="1")}),
        ([PYTHON, "-c", TELL], {"env": environment(PYTHONPATH="/shadow")}),
        ([PYTHON, "-c", TELL], {"preexec_fn": os.getpid}),
    ],
)
def test_what_would_not_be_the_same_starts_anew(
    words: Sequence[str], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch").mkdir()
    if "PYTHONPATH" in options.get("env", {}) and options["env"]["PYTHONPATH"] == "/shadow":
        options = {"env": environment(PYTHONPATH=os.pathsep.join([str(tmp_path), str(REPO)]))}

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("not to be shared")

    monkeypatch.setattr(processes, "_Child", refuse)
    with start(words, stdin=subprocess.DEVNULL, **options) as process:
        process.communicate()
    assert process.returncode == 3


def test_a_wait_ends_with_what_it_waits_for_or_with_the_process(tmp_path: Path) -> None:
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('x')"
    with start([PYTHON, "-c", write, tmp_path / "a"]) as process:
        assert wait_until((tmp_path / "a").exists, process)
    said = "ended with code 1 before that happened: went wrong"
    with start([PYTHON, "-c", "exit('went wrong')"]) as process, pytest.raises(AssertionError, match=said):
        wait_until((tmp_path / "b").exists, process)


def test_the_fixture_is_a_command_of_a_user(
    cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = cli("laws", "fit", "absent.csv")
    command = [PYTHON, "-m", "scaleprior", "laws", "fit", "absent.csv"]
    anew = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (anew.returncode, anew.stdout, anew.stderr)
