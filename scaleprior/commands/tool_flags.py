"""The flags of Detectron2's tools, for the thin doors in ``tools/``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from scaleprior.errors import ScalePriorError
from scaleprior.terminal import say_error
from scaleprior.wording import in_flags

__all__ = ["add_process_flags", "exit_code", "settle_processes", "tool_parser"]


def tool_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with Detectron2's own flags and trailing ``KEY VALUE`` words; a tool adds what is its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="YAML of configs/ or your own")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR, if there is one")
    parser.add_argument("--no-check", action="store_true", help="do not look at data, disk and memory before training")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    add_process_flags(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys to override")
    return parser


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Detectron2's four flags of where processes run."""
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N",
        help="processes on this machine, one a GPU (default 1; 0: one on the CPU; under torchrun leave it)",
    )  # fmt: skip
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines (default 1)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="tcp://HOST:PORT of machine 0; auto: a free local port"
    )


def settle_processes(args: argparse.Namespace) -> argparse.Namespace:
    """``args`` with no GPUs said as one process on the CPU; in place."""
    if args.num_gpus == 0:
        args.num_gpus, args.opts = 1, [*args.opts, "MODEL.DEVICE", "cpu"]
    return args


def exit_code(tool: str, work: Callable[[], int | None]) -> int:
    """Call ``work``; 0 or what it returns, or an error's code after the error's one line on standard error."""
    try:
        return work() or 0
    except ScalePriorError as e:
        say_error(*f"{tool}: error: {in_flags(e)}".split("\n"))
        return e.exit_code
    except KeyboardInterrupt:
        say_error(f"{tool}: interrupted; run again with --resume to go on")
        return 130
