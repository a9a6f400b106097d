"""The command line: finds the subcommand, runs its handler, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from scaleprior._version import __version__
from scaleprior.errors import ScalePriorError
from scaleprior.progress import StandardError
from scaleprior.terminal import say_error, take_any_text
from scaleprior.wording import in_flags, one_line

__all__ = ["build_parser", "main"]

_COMMANDS = (
    *("quickstart", "study", "corpus", "backbone", "pretrain", "detect", "check", "zoo", "laws", "config", "doctor"),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand; importing none of what the subcommands need to work."""
    parser = argparse.ArgumentParser(
        prog="scaleprior",
        description="What more pretraining data is worth to your detector, and how to get that worth into Detectron2.",
    )
    parser.add_argument("--version", action="version", version=f"scaleprior {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error (also after a subcommand)")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in _COMMANDS:
        importlib.import_module(f"scaleprior.commands.{name}").register(subparsers)
    return parser


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse, letting ``KEY VALUE`` overrides follow options; argparse gives up on positionals that come later.

    A command whose last positionals are called otherwise says so by the default ``later``.
    """
    args, later = parser.parse_known_args(arguments)
    name = getattr(args, "later", "opts")
    if later and (name not in args or any(word.startswith("--") for word in later)):
        parser.error(f"unrecognized arguments: {' '.join(later)}")
    if later:
        setattr(args, name, [*getattr(args, name), *later])
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 on success; 1 when the work failed; 2 for bad input (also argparse's own); 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Accepted anywhere, so that a failed command can be repeated with --debug appended.
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        handlers=[StandardError("%(levelname)s %(name)s: %(message)s")],
    )
    take_any_text()
    args = _parse(build_parser(), arguments)
    try:
        return args.handler(args) or 0
    except ScalePriorError as e:
        if debug:
            raise
        say_error(*f"scaleprior: error: {in_flags(e)}".split("\n"))
        return e.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; Python would complain again while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        again = "again with --resume" if getattr(args, "resume", None) is False else "the same command again"
        say_error(f"scaleprior: interrupted; run {again} to go on")
        return 130
    except Exception as e:
        if debug:
            raise
        say_error(
            f"scaleprior: error: {type(e).__name__}: {one_line(e)}; this is not expected, run again with --debug and "
            "report it"
        )
        return 1
