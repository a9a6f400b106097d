"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests run several at a time on few cores; a thread each is fastest, and sums come out in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("SCALEPRIOR_TEST_DATA", REPO.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data at {path}; set SCALEPRIOR_TEST_DATA to a folder that holds it")
    return path


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m scaleprior ARGS`` in ``tmp_path``, as a user would, and return code, stdout and stderr."""

    def run(*args: object, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "COLUMNS": "200", **env}
        command = [sys.executable, "-m", "scaleprior", *map(str, args)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=tmp_path, env=environment, check=False
        )

    return run
