#!/usr/bin/env python
"""Fine-tune or evaluate a detector, with the flags of Detectron2's tool of this name.

    python tools/train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPN.yaml --num-gpus 8 \\
        MODEL.WEIGHTS backbone.safetensors OUTPUT_DIR runs/r50
    python tools/train_net.py --config-file ... --eval-only OUTPUT_DIR runs/r50

With Detectron2 installed it is Detectron2's trainer, logs and files; without, the same config runs on the embedded
torchvision engine (the model is then model.safetensors). Either way it runs on as many GPUs as asked for, or in as many
processes on the CPU (--num-gpus 2 ... MODEL.DEVICE cpu), and ends with a row in OUTPUT_DIR/results.csv, or in the file
that SCALEPRIOR.RESULTS names.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scaleprior.cli import main as scaleprior_main
from scaleprior.commands.tool_flags import exit_code, settle_processes, tool_parser
from scaleprior.config import load_config
from scaleprior.detect import get_engine


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's flags."""
    parser = tool_parser(__doc__)
    parser.add_argument("--engine", default="auto", help="auto (default), torchvision or detectron2")
    parser.add_argument(
        "--extend",
        action="store_true",
        help="go on with the run in OUTPUT_DIR under a larger SOLVER.MAX_ITER; run.json and the detector tell of it",
    )
    return settle_processes(parser.parse_args(argv))


def arguments(args: argparse.Namespace) -> list[str]:
    """The words of the ``scaleprior detect`` command that does the same."""
    cfg = load_config(args.config_file, args.opts).cfg
    results = cfg.SCALEPRIOR.RESULTS or str(Path(cfg.OUTPUT_DIR) / "results.csv")
    own = ["SCALEPRIOR.RESULTS", results]
    asked = {"--resume": args.resume, "--extend": args.extend, "--no-check": args.no_check}
    flags = [flag for flag, given in asked.items() if given and not args.eval_only]
    action = "eval" if args.eval_only else "train"
    places = {
        "--num-gpus": (args.num_gpus, 1),
        "--num-machines": (args.num_machines, 1),
        "--machine-rank": (args.machine_rank, 0),
        "--dist-url": (args.dist_url, "auto"),
    }
    flags += [str(word) for flag, (asked, usual) in places.items() if asked != usual for word in (flag, asked)]
    return ["detect", action, "--config-file", args.config_file, "--engine", args.engine, *flags, *args.opts, *own]


def work(args: argparse.Namespace) -> int | None:
    """Train or evaluate on the engine that is asked for; an exit code, or None for 0."""
    if get_engine(args.engine).name == "detectron2":
        from scaleprior.d2.tool import run

        run(args)
        return None
    return scaleprior_main(arguments(args))


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or that of the error."""
    args = parse(argv)
    return exit_code("train_net", lambda: work(args))


if __name__ == "__main__":
    sys.exit(main())
