#!/usr/bin/env python
"""Pretrain a backbone, with the flags of Detectron2's tools.

    python tools/pretrain_net.py --config-file configs/Pretrain/R_50_jft.yaml --num-gpus 8 \\
        PRETRAIN.CORPUS /data/index OUTPUT_DIR runs/r50

With --num-gpus above 1 one process a GPU is started (gloo processes where there is no GPU); 0 is one process on the
CPU; under torchrun leave it at 1. Where Detectron2 is installed it starts the processes and writes log.txt,
metrics.json and TensorBoard events into OUTPUT_DIR; the backbone is the same with and without it.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from importlib.util import find_spec
from types import ModuleType

from scaleprior.commands.dry_run import add_dry_run, tell_cost, wants_dry_run
from scaleprior.commands.tool_flags import exit_code, settle_processes, tool_parser
from scaleprior.config import LoadedConfig, load_config
from scaleprior.detect import get_engine
from scaleprior.errors import UserError
from scaleprior.pretrain import evaluate_pretrained, pretrain
from scaleprior.progress import StandardError, progress_bar
from scaleprior.terminal import say, say_error
from scaleprior.training.launching import launch
from scaleprior.wording import one_line


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Detectron2's flags."""
    parser = tool_parser(__doc__)
    parser.add_argument(
        "--runtime",
        choices=("auto", "detectron2", "plain"),
        default="auto",
        help="detectron2: its launch, logs and events; plain: without Detectron2, writes metrics.jsonl; "
        "auto (default): detectron2 where it can be imported, else plain",
    )
    parser.add_argument("--json", action="store_true", help="with --dry-run: print one JSON object")
    add_dry_run(parser)
    return settle_processes(parser.parse_args(argv))


def detectron2_runtime(asked: str) -> ModuleType | None:
    """``scaleprior.d2.pretraining``, or None for the plain runtime.

    Raises:
        UserError: "detectron2" is asked for, but absent or broken.
    """
    if asked == "plain" or (asked == "auto" and find_spec("detectron2") is None):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Detectron2's use of torch is not its user's to change
            from scaleprior.d2 import pretraining
    except UserError as e:
        if asked == "detectron2":
            raise
        say_error(f"pretrain_net: warning: going on without Detectron2: {one_line(e)}")
        return None
    return pretraining


def load(args: argparse.Namespace) -> LoadedConfig:
    """The config; a dry run stays outside Detectron2, but reads the YAMLs that the run inside it would read."""
    if args.dry_run and detectron2_runtime(args.runtime) is not None:
        return load_config(args.config_file, args.opts, defaults=get_engine("detectron2").default_config())
    return load_config(args.config_file, args.opts)


def work(args: argparse.Namespace) -> None:
    """One process' share without Detectron2."""
    logging.basicConfig(level=logging.INFO, handlers=[StandardError("%(asctime)s %(name)s: %(message)s")])
    loaded = load(args)
    out = loaded.cfg.OUTPUT_DIR
    if args.dry_run:
        tell_cost(loaded, out, args, check=not args.no_check)
        return
    main_process = os.environ.get("RANK", "0") == "0"
    if args.eval_only:
        if main_process:
            say(evaluate_pretrained(loaded, out).to_dict())
        return
    with progress_bar("pretraining") as progress:
        result = pretrain(
            loaded, out, resume=args.resume, check=not args.no_check, progress=progress if main_process else False
        )
    if main_process:
        say(f"{result.backbone}: {result.metrics.to_dict()}")


def launch_plain(args: argparse.Namespace) -> None:
    """Run :func:`work` in as many processes as the flags say; evaluation takes one."""
    load(args)  # wrong keys are said once, not by every process
    counts = {"processes": args.num_gpus, "machines": args.num_machines, "machine_rank": args.machine_rank}
    launch(work, (args,), **({"processes": 1} if args.eval_only else counts), dist_url=args.dist_url)


def run(args: argparse.Namespace) -> None:
    """Start the runtime that is asked for."""
    runtime = None if wants_dry_run(args) else detectron2_runtime(args.runtime)
    (launch_plain if runtime is None else runtime.launch_pretraining)(args)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or that of the error."""
    args = parse(argv)
    return exit_code("pretrain_net", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
