"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests import processes
from tests.processes import REPO as REPO

# Tests run several at a time on few cores; a thread each is fastest, and sums come out in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts tests in the background has them ignore SIGINT, and so all that they start: nothing would stop.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first, so that no worker is left alone with one at the end; tests marked
    ``detectron2``, of whatever room, are skipped where it does not import."""
    plugin = [item for item in items if item.get_closest_marker("detectron2")]
    if plugin and (missing := _detectron2_missing()):
        for item in plugin:
            item.add_marker(pytest.mark.skip(reason=f"Detectron2 does not import here ({missing})"))
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every byte in a folder and when it was written; of a folder, when a file came to it or left it."""
    return {
        str(path.relative_to(folder)): (path.read_bytes() if path.is_file() else b"", path.stat().st_mtime_ns)
        for path in [folder, *sorted(folder.rglob("*"))]
    }


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("SCALEPRIOR_TEST_DATA", REPO.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}; set SCALEPRIOR_TEST_DATA to a folder that holds it")
    return path


@pytest.fixture(scope="session", autouse=True)
def _imports_are_shared() -> None:
    """Processes that are started for a study or a second rank do not import torch anew: see ``tests.processes``."""
    processes.share_imports()


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m scaleprior ARGS`` in ``tmp_path``, as a user would, and return code, stdout and stderr."""

    def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "scaleprior", *args]
        return processes.run(command, cwd=tmp_path, env=processes.environment(**env))

    return run


@cache
def _detectron2_missing() -> str:
    """Why Detectron2 does not import here; "" if it does."""
    try:
        importlib.import_module("detectron2.modeling")
    except Exception as e:  # whatever a broken one raises, it is a reason
        return f"{type(e).__name__}: {e}"
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last lines say how many tests of the Detectron2 plugin ran, or why none did."""
    ran = [r for kind in ("passed", "failed") for r in terminalreporter.getreports(kind) if "detectron2" in r.keywords]
    ran = [r for r in ran if r.when == "call"]
    failed = sum(r.failed for r in ran)
    missing = _detectron2_missing()
    if missing:
        terminalreporter.write_line(f"plugin tests: skipped, Detectron2 does not import here ({missing})")
    else:
        terminalreporter.write_line(f"plugin tests: {len(ran)} ran under the real Detectron2, {failed} failed")
