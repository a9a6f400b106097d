"""The bar on the terminal, and log lines while it is shown."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from scaleprior.progress import StandardError, progress_bar


class Terminal(io.StringIO):
    """A terminal's end of standard error."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def logger() -> logging.Logger:
    """With the handler that the command line takes, made before any bar."""
    logger = logging.Logger("said", logging.INFO)
    logger.addHandler(StandardError())
    return logger


def test_a_log_line_stands_above_the_bar_and_does_not_tear_it(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("pretraining") as report:
        report(1, 2, {"loss": 0.7})
        logger.info("step 1/2 loss 0.7")
    shown = terminal.getvalue()
    line = shown[: shown.index("step 1/2 loss 0.7\n")]
    assert line.endswith("\r\x1b[2K")  # the bar is erased first ...
    assert "pretraining" in shown[len(line) :]  # ... and drawn again below
    assert sys.stderr is terminal


def test_without_a_terminal_lines_go_to_standard_error_as_it_is_then(
    logger: logging.Logger, capsys: pytest.CaptureFixture
) -> None:
    with progress_bar("pretraining") as report:
        report(1, 2, {"loss": 0.7})
        logger.info("step 1/2")
    assert capsys.readouterr().err == "step 1/2\n"
