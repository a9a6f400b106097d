"""Untrusted files execute nothing and exhaust nothing: refused for its reason or inert, and memory stays small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaleprior.backbones import RefusedFileError, read_backbone
from tests.backbones.readers.malicious import EXPECTED, write_all

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Reason and growth of peak memory (MiB) by file, measured in a process of its own."""
    folder = tmp_path_factory.mktemp("malicious")
    write_all(folder)
    command = [sys.executable, "-m", "tests.backbones.readers.malicious", str(folder)]
    path = f"{REPO}{os.pathsep}{folder}"  # where a module lies that leaves a trace when it is imported
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert not (folder / "executed").exists(), "a file ran a program"
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_each_is_refused_for_its_reason_or_inert(found: dict[str, list], name: str) -> None:
    assert found[name][0] == EXPECTED[name]


def test_memory_stays_bounded(found: dict[str, list]) -> None:
    # The files with 2 MB of whole backbones included; several of the others claim 10 GB.
    grown = {name: growth for name, (_, growth) in found.items() if growth > 64}
    assert not grown


def test_the_message_names_file_reason_and_culprit(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(RefusedFileError, match=r"w.pkl: it calls posix.system, which is no part of weights") as error:
        read_backbone(path)
    assert error.value.reason == "code"
    assert "safetensors" in str(error.value)
