"""``scaleprior pretrain``: pretrain a backbone on a fraction of a corpus."""

from __future__ import annotations

import argparse
from pathlib import Path

from scaleprior.commands.dry_run import add_dry_run, tell_cost, wants_dry_run
from scaleprior.commands.tool_flags import add_process_flags, settle_processes
from scaleprior.terminal import say, say_json

__all__ = ["register"]


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``pretrain`` parser."""
    parser = subparsers.add_parser(
        "pretrain",
        help="pretrain a backbone on a fraction of a corpus",
        description="Pretrain a ResNet on a fraction of a corpus with the multi-label loss. Ends with OUT/"
        "backbone.safetensors, in Detectron2's parameter names with its card, and OUT/result.json.",
    )
    parser.add_argument("--config-file", metavar="FILE", required=True, help="YAML, e.g. Pretrain/quickstart.yaml")
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUT; start one if there is none")
    parser.add_argument(
        "--check",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="look at the corpora's files, disk and memory first (see `scaleprior check`)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: OUTPUT_DIR of the config)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_process_flags(parser)
    add_dry_run(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to override, e.g. SEED 1")
    parser.set_defaults(handler=_pretrain)


def _pretrain(args: argparse.Namespace) -> None:
    from scaleprior.config import load_config
    from scaleprior.training.launching import launch

    wants_dry_run(args)
    settle_processes(args)
    load_config(args.config_file, args.opts)  # wrong keys are said once, not by every process
    launch(
        _work,
        (args,),
        processes=args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
    )


def _work(args: argparse.Namespace) -> None:
    """One process' share; of several the first speaks for all."""
    import logging
    import sys

    from scaleprior.config import load_config
    from scaleprior.pretrain import pretrain
    from scaleprior.progress import StandardError, progress_bar
    from scaleprior.training.processes import place_in_group

    loaded, main = load_config(args.config_file, args.opts), place_in_group()[0] == 0
    out = args.out or Path(loaded.cfg.OUTPUT_DIR)
    # as ``main`` does, for processes that we started
    logging.basicConfig(handlers=[StandardError("%(levelname)s %(name)s: %(message)s")])
    if args.dry_run:
        tell_cost(loaded, out, args, check=args.check)
        return
    if not sys.stderr.isatty():  # where there is no bar, lines say how far it is
        logging.getLogger("scaleprior.pretrain.figures").setLevel(logging.INFO)
    with progress_bar("pretraining") as progress:
        result = pretrain(loaded, out, resume=args.resume, check=args.check, progress=progress if main else False)
    if not main:
        return
    if args.json:
        say_json({"backbone": str(result.backbone), **result.metrics.to_dict()}, indent=None)
        return
    say(f"backbone: {result.backbone}")
    say(f"{result.images_seen} images in {result.seconds:.1f} s, loss {result.metrics.loss:.4g}")
    for name, value in result.metrics.measured.to_dict().items():
        say(f"{name.replace('held_out/', 'held out, ').replace('probe/', 'probe, ')}: {value:.4g}")
