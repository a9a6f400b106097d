"""The flags of Detectron2's tools, for the thin doors in ``tools/``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from scaleprior.errors import ScalePriorError
from scaleprior.wording import in_flags

__all__ = ["exit_code", "tool_parser"]


def tool_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with Detectron2's own flags and trailing ``KEY VALUE`` words; a tool adds what is its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML of configs/ or your own")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR, if there is one")
    parser.add_argument("--no-check", action="store_true", help="do not look at data, disk and memory before training")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on this machine, one a GPU")
    parser.add_argument("--num-machines", type=int, default=1, help="machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of machine 0; auto: a free local port")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to override")
    return parser


def exit_code(tool: str, work: Callable[[], int | None]) -> int:
    """Call ``work``; 0 or what it returns, or an error's code after the error's one line on standard error."""
    try:
        return work() or 0
    except ScalePriorError as e:
        print(f"{tool}: error: {in_flags(e)}", file=sys.stderr)
        return e.exit_code
    except KeyboardInterrupt:
        print(f"{tool}: interrupted; run again with --resume to go on", file=sys.stderr)
        return 130
