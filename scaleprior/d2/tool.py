"""``tools/train_net.py`` under Detectron2: its flags, its set-up, its console output, and ScalePrior's checks."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from scaleprior.config import load_config
from scaleprior.config.saved import write_config
from scaleprior.d2.checkpoint import load_detector
from scaleprior.d2.checks import detectron2_refuses
from scaleprior.d2.datasets import problems_of
from scaleprior.d2.engine import MODEL_FILE, Detectron2Engine, claim, record
from scaleprior.d2.evaluation.results import to_result
from scaleprior.d2.logs import without_tracebacks
from scaleprior.d2.plan import Plan, default_config, plan_evaluation, plan_training
from scaleprior.d2.trainer import Trainer
from scaleprior.detect.check import check_detection
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.engines import get_engine
from scaleprior.detect.metrics import results_to_dict
from scaleprior.detect.start import model_to_evaluate
from scaleprior.errors import FailureError, UserError
from scaleprior.files import write_json
from scaleprior.training.launching import check_counts, supervise
from scaleprior.wording import parameter

__all__ = ["run"]

logger = logging.getLogger(__name__)

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
            f"{parameter('num_gpus')} is {args.num_gpus}, there are {torch.cuda.device_count()} here",
            hint="Detectron2 trains in several processes on GPUs only",
        )
    counts = (args.num_gpus, args.num_machines, args.machine_rank)
    supervise(lambda guarded: launch(guarded, *counts, args.dist_url, args=(args,)), _work)


def _work(args: argparse.Namespace) -> None:
    """One process' share."""
    without_tracebacks()
    loaded = load_config(args.config_file, args.opts, defaults=default_config())
    out = Path(loaded.cfg.OUTPUT_DIR)
    # a script of one's own may have Detectron2's flags alone
    if comm.is_main_process() and not (args.eval_only or getattr(args, "no_check", False)):
        check_detection(
            loaded, None, out, engine=get_engine(Detectron2Engine.name), processes=comm.get_world_size()
        ).refuse()
    try:
        setup_logger(str(out), distributed_rank=comm.get_rank(), name="scaleprior")
    except OSError as e:
        raise FailureError(f"cannot write OUTPUT_DIR {out}: {e.strerror or e}", hint="choose another folder") from e
    # Detectron2 opens the file to log it, and ours may be given by its name in configs/.
    shown = argparse.Namespace(**{**vars(args), "config_file": loaded.source})
    if args.eval_only:
        chosen = model_to_evaluate(get_engine(Detectron2Engine.name), loaded, out, words=args.opts)
        plan = _with_results(plan_evaluation(loaded, chosen, out))
        default_setup(plan.cfg, shown)
        if comm.is_main_process():
            write_config(plan.cfg, out)
        _report(plan, _evaluate(plan, plan.cfg.MODEL.WEIGHTS), plan.cfg.MODEL.WEIGHTS)
        return
    plan = _with_results(plan_training(loaded, None, out))
    default_setup(plan.cfg, shown)
    if comm.is_main_process():
        write_config(plan.cfg, out)  # in place of Detectron2's, which holds our keys, too
    model = str(out / MODEL_FILE)
    if any(comm.all_gather(comm.is_main_process() and claim(plan, out, resume=args.resume))):
        logger.info("%s is complete", model)
        found = _evaluate(plan, model) if plan.cfg.DATASETS.TEST else {}
    else:
        if comm.is_main_process():
            record_dropped(out, problems_of(plan.cfg.DATASETS.TRAIN), anew=True)
        found = _train(plan, resume=args.resume)
    _report(plan, found, model)


def _train(plan: Plan, *, resume: bool) -> dict[str, Any]:
    """What Detectron2's evaluation found at the end; {} where there is nothing to evaluate on."""
    with detectron2_refuses():
        trainer = Trainer(plan.cfg)
    trainer.trained = plan.trained
    trainer.resume_or_load(resume)
    trainer.train()
    found: Any = trainer  # Detectron2 sets the attribute when it has evaluated
    return found._last_eval_results if plan.cfg.DATASETS.TEST else {}


def _evaluate(plan: Plan, weights: str) -> dict[str, Any]:
    with detectron2_refuses():
        model = Trainer.build_model(plan.cfg)
    load_detector(model, weights)
    return Trainer.test(plan.cfg, model)


def _with_results(plan: Plan) -> Plan:
    """A tool's run always leaves its row: in the run's folder, where no other place is named."""
    if plan.cfg.SCALEPRIOR.RESULTS:
        return plan
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.SCALEPRIOR.RESULTS = str(Path(cfg.OUTPUT_DIR) / _RESULTS)
    cfg.freeze()
    return Plan(cfg, plan.trained)


def _report(plan: Plan, found: dict[str, Any], model: str) -> None:
    if not comm.is_main_process():
        return
    head = {"engine": Detectron2Engine.name, "model": model}
    sets = list(plan.cfg.DATASETS.TEST)
    if not sets:
        print(json.dumps(head))
        return
    results = {name: to_result(found if len(sets) == 1 else found[name], name) for name in sets}
    words = results_to_dict(results)
    write_json(Path(plan.cfg.OUTPUT_DIR) / "results.json", {**head, **words})
    record_dropped(plan.cfg.OUTPUT_DIR, problems_of(sets), anew=False)
    record(plan, results, model)
    print(json.dumps({**head, "results": plan.cfg.SCALEPRIOR.RESULTS, **words}))
