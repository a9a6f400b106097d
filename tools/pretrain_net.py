#!/usr/bin/env python
"""Pretrain a backbone, with the flags of Detectron2's tools.

    python tools/pretrain_net.py --config-file configs/Pretrain/R_50_jft.yaml --num-gpus 8 \\
        PRETRAIN.CORPUS /data/index OUTPUT_DIR runs/r50

With --num-gpus above 1 one process a GPU is started (gloo processes where there is no GPU); under torchrun leave it
at 1. In one process, ``scaleprior pretrain`` does the same.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from scaleprior.commands.tool_flags import tool_parser
from scaleprior.config import load_config
from scaleprior.errors import ScalePriorError
from scaleprior.pretrain import evaluate_pretrained, launch, pretrain
from scaleprior.progress import progress_bar


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's flags."""
    return tool_parser(__doc__).parse_args(argv)


def work(args: argparse.Namespace) -> None:
    """One process' share."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    loaded = load_config(args.config_file, args.opts)
    out = loaded.cfg.OUTPUT_DIR
    if args.eval_only:
        print(evaluate_pretrained(loaded, out))
        return
    main_process = os.environ.get("RANK", "0") == "0"
    with progress_bar("pretraining") as progress:
        result = pretrain(loaded, out, resume=args.resume, progress=progress if main_process else None)
    if main_process:
        print(f"{result.backbone}: {result.metrics}")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or that of the error."""
    args = parse(argv)
    try:
        load_config(args.config_file, args.opts)  # wrong keys are said once, not by every process
        if args.eval_only:
            work(args)
            return 0
        return launch(
            work,
            (args,),
            processes=args.num_gpus,
            machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
        )
    except ScalePriorError as e:
        print(f"pretrain_net: error: {e}", file=sys.stderr)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
