"""Pages whose commands are typed word for word on small samples in the published forms: what they show is printed."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import pytest

from scaleprior.cli import main
from tests.conftest import REPO
from tests.walkthrough.samples import SAMPLES
from tests.walkthrough.weights import CHECKPOINTS

PAGES = {"data.md": SAMPLES, "backbones.md": CHECKPOINTS}
_ALL = [(page, name) for page, samples in PAGES.items() for name in samples]
_BLOCK = re.compile(r"<!-- walk-through: ([\w-]+) -->\n```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def sessions(page: str) -> dict[str, list[tuple[str, str]]]:
    """(command, what it prints) by walk-through, in the page's order; "..." stands for anything."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, block in _BLOCK.findall((REPO / "docs" / page).read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.replace("\\\n", " ").splitlines()
            found.setdefault(name, []).append((lines[0], "\n".join(lines[1:])))
    return found


def matches(shown: str, printed: str) -> bool:
    """Whether they are equal up to "..." and blanks at the ends of lines."""
    said = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    pattern = ".*?".join(map(re.escape, shown.strip().split("...")))
    return re.fullmatch(pattern, said, re.DOTALL) is not None


def test_every_sample_has_its_walk_through() -> None:
    assert {page: set(sessions(page)) for page in PAGES} == {page: set(samples) for page, samples in PAGES.items()}
    assert matches("a ... c", "a b\nb c\n")
    assert not matches("a ... c", "a b d")


@pytest.mark.parametrize(("page", "name"), _ALL)
def test_the_page_is_what_a_new_user_sees(
    page: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "data").mkdir()
    PAGES[page][name](tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    for command, shown in sessions(page)[name]:
        program, *words = shlex.split(command)
        assert program == "scaleprior"
        code = main(words)
        out, err = capfd.readouterr()
        # pytest took them; those on the way are written where there is no terminal, which pages show
        records = [record for record in caplog.records if record.levelno >= logging.WARNING]
        logged = "".join(f"{record.levelname} {record.name}: {record.getMessage()}\n" for record in records)
        caplog.clear()
        printed = (logged + err + out).replace(str(tmp_path / "data"), "/data")
        assert matches(shown, printed), f"$ {command}\n{printed}"
        assert code == (2 if "scaleprior: error: " in shown or "would stop a run" in shown else 0)
