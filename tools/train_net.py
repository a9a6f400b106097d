#!/usr/bin/env python
"""Fine-tune or evaluate a detector, with the flags of Detectron2's tool of this name.

    python tools/train_net.py --config-file configs/COCO-Detection/faster_rcnn_R_50_FPN.yaml \\
        MODEL.WEIGHTS backbone.safetensors OUTPUT_DIR runs/r50
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS runs/r50/model.safetensors

A thin door to ``scaleprior detect``; see docs/detect.md.
"""

from __future__ import annotations

import argparse
import sys

from scaleprior.cli import main
from scaleprior.commands.tool_flags import tool_parser
from scaleprior.errors import UserError


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's flags."""
    parser = tool_parser(__doc__)
    parser.add_argument("--engine", default="auto", help="auto (default), torchvision or detectron2")
    return parser.parse_args(argv)


def arguments(args: argparse.Namespace) -> list[str]:
    """The words of the ``scaleprior detect`` command that does the same.

    Raises:
        UserError: a flag that asks for more than one process.
    """
    for flag, value, only in (
        ("--num-gpus", args.num_gpus, (0, 1)),
        ("--num-machines", args.num_machines, (1,)),
        ("--machine-rank", args.machine_rank, (0,)),
        ("--dist-url", args.dist_url, ("auto",)),
    ):
        if value not in only:
            raise UserError(
                f"{flag} {value} needs the detectron2 engine's own tool; this one runs in one process",
                hint=f"use {flag} {only[-1]}",
            )
    device = ["MODEL.DEVICE", "cpu"] if args.num_gpus == 0 else []
    flags = ["--resume"] if args.resume and not args.eval_only else []
    action = "eval" if args.eval_only else "train"
    return ["detect", action, "--config-file", args.config_file, "--engine", args.engine, *flags, *args.opts, *device]


if __name__ == "__main__":
    try:
        words = arguments(parse())
    except UserError as e:
        print(f"scaleprior: error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    sys.exit(main(words))
