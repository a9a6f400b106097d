"""``tools/train_net.py`` under Detectron2: its flags, its set-up, its console output, and ScalePrior's checks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from scaleprior.config import load_config
from scaleprior.d2.checkpoint import load_detector
from scaleprior.d2.engine import MODEL_FILE, Detectron2Engine, claim, in_our_words, record
from scaleprior.d2.logs import without_tracebacks
from scaleprior.d2.plan import Plan, default_config, plan_evaluation, plan_training
from scaleprior.d2.trainer import Trainer
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.pretrain.launch import check_counts, supervise

__all__ = ["run"]

_RESULTS = "results.csv"


def run(args: argparse.Namespace) -> None:
    """Train or, with ``--eval-only``, evaluate; in as many processes as ``--num-gpus`` and ``--num-machines`` say.

    Args:
        args: of ``commands.tool_flags.tool_parser``.

    Raises:
        UserError, FailureError: as :class:`scaleprior.d2.trainer.Trainer`; with several processes as ``supervise``.
    """
    check_counts(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    if args.num_gpus * args.num_machines == 1:
        _work(args)
        return
    if args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"--num-gpus is {args.num_gpus}, there are {torch.cuda.device_count()} here",
            hint="Detectron2 trains in several processes on GPUs only",
        )
    counts = (args.num_gpus, args.num_machines, args.machine_rank)
    supervise(lambda guarded: launch(guarded, *counts, args.dist_url, args=(args,)), _work)


def _work(args: argparse.Namespace) -> None:
    """One process' share."""
    without_tracebacks()
    loaded = load_config(args.config_file, args.opts, defaults=default_config())
    out = Path(loaded.cfg.OUTPUT_DIR)
    setup_logger(str(out), distributed_rank=comm.get_rank(), name="scaleprior")
    # Detectron2 opens the file to log it, and ours may be given by its name in configs/.
    shown = argparse.Namespace(**{**vars(args), "config_file": loaded.source})
    if args.eval_only:
        plan = _with_results(plan_evaluation(loaded, loaded.cfg.MODEL.WEIGHTS or out / MODEL_FILE, out))
        default_setup(plan.cfg, shown)
        model = Trainer.build_model(plan.cfg)
        load_detector(model, plan.cfg.MODEL.WEIGHTS)
        _report(plan, Trainer.test(plan.cfg, model), plan.cfg.MODEL.WEIGHTS)
        return
    plan = _with_results(plan_training(loaded, None, out))
    default_setup(plan.cfg, shown)
    if comm.is_main_process():
        claim(plan, out, resume=args.resume)
    comm.synchronize()
    trainer = Trainer(plan.cfg)
    trainer.extra = plan.extra
    trainer.resume_or_load(args.resume)
    trainer.train()
    if plan.cfg.DATASETS.TEST:
        _report(plan, trainer._last_eval_results, str(out / MODEL_FILE))


def _with_results(plan: Plan) -> Plan:
    """A tool's run always leaves its row: in the run's folder, where no other place is named."""
    if plan.cfg.SCALEPRIOR.RESULTS:
        return plan
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.SCALEPRIOR.RESULTS = str(Path(cfg.OUTPUT_DIR) / _RESULTS)
    cfg.freeze()
    return Plan(cfg, plan.card, plan.extra)


def _report(plan: Plan, found: dict[str, Any], model: str) -> None:
    if not comm.is_main_process():
        return
    sets = list(plan.cfg.DATASETS.TEST)
    results = {name: in_our_words(found if len(sets) == 1 else found[name], name) for name in sets}
    result = results[sets[0]] if len(sets) == 1 else results
    head = {"engine": Detectron2Engine.name, "model": model}
    write_json(Path(plan.cfg.OUTPUT_DIR) / "results.json", {**head, **result})
    record(plan, result)
    print(json.dumps({**head, "results": plan.cfg.SCALEPRIOR.RESULTS, **result}))
