"""What is doubtful about a source is asked before anything is read, and who cannot be asked is told what to pass."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from scaleprior.corpus import Corpus
from scaleprior.corpus.importers import Doubt
from scaleprior.corpus.importers.doubts import settle
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.corpus.pictures import class_folders

REPO = Path(__file__).resolve().parents[2]
DOUBTS = (Doubt("first", "do this"), Doubt("second", "do that"))


def test_doubts_are_refused_together_unless_all_are_meant():
    settle((), False)
    settle(DOUBTS, True)
    settle(DOUBTS, lambda doubt: True)
    with pytest.raises(UserError, match=r"^first; second; do this; do that; or pass yes=True if it is meant so$") as e:
        settle(DOUBTS, False)
    assert in_flags(e.value).endswith("or pass --yes if it is meant so")
    with pytest.raises(UserError, match=r"^second; do that; or pass yes=True"):
        settle(DOUBTS, lambda doubt: doubt.what == "first")


def test_a_doubtful_source_is_read_only_when_it_is_meant(tmp_path):
    src = class_folders(tmp_path / "src", {"images": 2})
    calls: list[int] = []
    with pytest.raises(UserError, match="src would have the one label 'images'"):
        Corpus.build(src, tmp_path / "i", progress=lambda done, total, _: calls.append(done))
    assert not calls
    asked: list[Doubt] = []
    assert len(Corpus.build(src, tmp_path / "i", yes=lambda doubt: not asked.append(doubt))) == 2
    assert [doubt.what.rpartition(" the ")[2] for doubt in asked] == ["one label 'images'"]
    with pytest.raises(UserError, match="already holds an index"):  # and before any question
        Corpus.build(src, tmp_path / "i", yes=lambda doubt: not asked.append(doubt))
    assert len(asked) == 1


def test_the_command_refuses_what_it_cannot_ask_and_takes_yes(cli, tmp_path):
    class_folders(tmp_path / "src", {"images": 2})
    refused = cli("corpus", "build", "src", "i")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith("scaleprior: error: all images of src would have the one label 'images'")
    assert refused.stderr.endswith("or pass --yes if it is meant so\n")
    assert not (tmp_path / "i").exists()
    assert cli("corpus", "build", "src", "i", "--yes").returncode == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("\n", 2)])
def test_a_person_at_a_terminal_is_asked(tmp_path, answer, code):
    class_folders(tmp_path / "src", {"images": 2})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "scaleprior", "corpus", "build", "src", "i"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=theirs, stderr=theirs, stdout=-1) as process:
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 1024)
        assert not (tmp_path / "i").exists()
        os.write(ours, answer.encode())
        process.communicate()
    os.close(ours)
    assert b"would have the one label 'images'" in said
    assert b"--labels TABLE" in said
    assert process.returncode == code
    assert (tmp_path / "i").exists() == (code == 0)
