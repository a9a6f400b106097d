"""What is printed and logged shows text of others and does not obey it; and nobody prints around that."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from scaleprior.console import PlainConsole, WordsColumn, styled
from scaleprior.progress import StandardError, progress_bar
from scaleprior.terminal import LogFormatter, say, say_error, say_json, take_any_text

PACKAGE = Path(__file__).resolve().parents[2] / "scaleprior"
HOSTILE = (
    "[/b]", "[bold]x", "[link=http://evil]x[/link]", ":smile:", "\x1b]8;;http://evil\x07x\x1b]8;;\x07", "\x1b]0;t\x07",
    "\x1b[2J", "\x9b31m", "\u202egnp.exe", "\u2066x", "a\nscaleprior: error: b", "a\rb", "\x08\x08", "\ud800",
    "[[", "\\[",
)  # fmt: skip


def spelled(text: str) -> str:
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(f"name  {text}", "end")
    say_error(text)
    out, err = capsys.readouterr()
    assert out == f"name  {spelled(text)}\nend\n"
    assert err == f"{spelled(text)}\n"
    assert out.encode("utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_strict_and_in_ascii(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say_json({text: [text, float("nan"), (float("inf"), 1.5)], "n": 3})
    out = capsys.readouterr().out

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(out, parse_constant=refused) == {text: [text, None, [None, 1.5]], "n": 3}
    assert out.isascii()
    assert all(line.isprintable() for line in out.splitlines())


def test_letters_that_standard_output_cannot_take_are_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    take_any_text()
    say("3.00 ± é")
    sys.stdout.flush()
    assert raw.getvalue() == b"3.00 \\xb1 \\xe9\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_console_shows_it_in_all_its_places(text: str) -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=200, force_terminal=True, color_system=None)
    console.print(text, soft_wrap=True, markup=True, emoji=True)
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    table.add_row(styled(text, "red"))
    console.print(table)
    with Progress(WordsColumn(), WordsColumn("note", style="dim"), console=console) as progress:
        progress.add_task(text, note=text)
    shown = (
        out.getvalue().replace("\x1b[1A", "").replace("\x1b[2K", "").replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    )
    shown = shown.replace("\r", "")  # the bar's own
    assert all(line.isprintable() for line in shown.split("\n"))
    assert shown.count(spelled(text)) >= 6


@pytest.mark.parametrize("text", HOSTILE)
def test_a_bar_shows_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(f"fetching {text}") as report:
        report(1, 2, {text: 0.5})
    assert spelled(f"fetching {text}") in terminal.getvalue()
    assert spelled(f"{text} 0.5") in terminal.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_record_of_ours_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logger = logging.Logger("scaleprior.study", logging.INFO)
    logger.addHandler(StandardError("%(levelname)s %(message)s"))
    logger.warning("%s is damaged", text)
    assert stream.getvalue() == f"WARNING {spelled(text)} is damaged\n"


def test_a_traceback_and_the_tables_of_others_keep_their_lines() -> None:
    form = LogFormatter("%(message)s")
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        record = logging.LogRecord("scaleprior.d2", logging.ERROR, "f", 1, "a\nb", (), sys.exc_info())
    lines = form.format(record).split("\n")
    assert lines[:2] == ["a\\nb", "Traceback (most recent call last):"]
    assert lines[-1] == "ValueError: \\x1b[2J"
    theirs = logging.LogRecord("detectron2.utils", logging.INFO, "f", 1, "| a |\n| \x1b[2Jb\r |", (), None)
    assert form.format(theirs) == "| a |\n| \\x1b[2Jb\\r |"


def called(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_prints_around_it(path: Path) -> None:
    own = {  # a page that is Markdown, a question whose answer is to stand behind it, and the gates themselves
        "terminal.py", "console.py", "config/reference.py", "commands/zoo.py", "commands/corpus.py",
    }  # fmt: skip
    around = {"print", "Console", "TextColumn", "logging.StreamHandler", "logging.Formatter", "sys.stdout.write"}
    if str(path.relative_to(PACKAGE)) not in own:
        assert not called(path) & around, "take scaleprior.terminal or scaleprior.console"
