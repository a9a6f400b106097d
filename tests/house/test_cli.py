"""The command line itself: exit codes, one-line errors, tracebacks only on demand."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scaleprior import __version__

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").stdout == f"scaleprior {__version__}\n"
    text = cli("--help").stdout
    for command in ("quickstart", "study", "corpus", "pretrain", "detect", "laws", "doctor"):
        assert command in text


@pytest.mark.parametrize("debug", [False, True])
def test_bad_input_is_one_line_and_exit_code_2(cli: Cli, debug: bool) -> None:
    run = cli("study", "status", "nowhere", *(["--debug"] if debug else []))
    assert ("Traceback" in run.stderr) == debug
    if not debug:
        assert run.returncode == 2
        assert run.stderr == (
            "scaleprior: error: no study in nowhere (no study.json); give the folder that its run had as --out\n"
        )


def test_unknown_arguments_are_exit_code_2(cli: Cli) -> None:
    assert cli("study", "walk").returncode == 2
    assert cli().returncode == 2


def test_overrides_may_follow_options_and_unknown_options_are_refused(cli: Cli, tmp_path: Path) -> None:
    run = cli("study", "run", "studies/quickstart.yaml", "--out", "o", "ladder", "[0]", "--jobs", "1", "seeds", "[1]")
    assert run.returncode == 2
    assert "ladder is [0]" in run.stderr
    run = cli("study", "run", "studies/quickstart.yaml", "ladder", "[32]", "--nojobs", "1")
    assert run.returncode == 2
    assert "unrecognized arguments: --nojobs" in run.stderr


def test_doctor_tells_what_works(cli: Cli) -> None:
    run = cli("doctor", "--json")
    assert run.returncode == 0, run.stderr
    findings = json.loads(run.stdout)
    assert findings["libraries"]["torch"]
    assert findings["checks"][0] == {"what": "pretraining and the torchvision engine", "works": True, "why": ""}
    text = cli("doctor", PATH="/nonexistent").stdout
    assert "torchvision engine: works" in text
    assert re.search(r"decoded images +\S*images \(\d+ sets?, .* at most\)", text)
