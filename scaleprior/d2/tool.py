"""``tools/train_net.py`` under Detectron2: its flags, its set-up, its console output, and ScalePrior's checks."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from detectron2.engine import default_setup, launch
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from scaleprior.config import LoadedConfig, load_config
from scaleprior.config.bases import CONFIG_FILE, OWN_FILE
from scaleprior.config.saved import write_config
from scaleprior.d2.checks import detectron2_refuses
from scaleprior.d2.claiming import MODEL_FILE, POINTER, claim
from scaleprior.d2.data.datasets import problems_of
from scaleprior.d2.engine import Detectron2Engine, record
from scaleprior.d2.evaluation.expected import verify_expected
from scaleprior.d2.evaluation.results import results_by_set
from scaleprior.d2.logs import held_messages, without_effects_in_logs, without_tracebacks
from scaleprior.d2.plan import Plan, default_config, plan_evaluation, plan_training
from scaleprior.d2.trainer import Trainer
from scaleprior.d2.weights.checkpoint import load_detector
from scaleprior.detect.check import check_detection
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.engines import get_engine
from scaleprior.detect.metrics import results_to_dict
from scaleprior.detect.start import model_to_evaluate
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.files import write_bytes, write_json
from scaleprior.locks import alone_in
from scaleprior.terminal import say_json
from scaleprior.training.launching import check_counts, check_gpus, supervise
from scaleprior.training.run_folder import RUN_FILE

__all__ = ["run"]

logger = logging.getLogger(__name__)

_RESULTS = "results.csv"
T = TypeVar("T")


def run(args: argparse.Namespace) -> None:
    """Train or, with ``--eval-only``, evaluate; in as many processes as ``--num-gpus`` and ``--num-machines`` say, also
    with ``MODEL.DEVICE cpu``.

    Args:
        args: of ``commands.tool_flags.tool_parser``.

    Raises:
        UserError, FailureError: as :class:`scaleprior.d2.trainer.Trainer`; with several processes as ``supervise``.
    """
    check_counts(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    if args.num_gpus * args.num_machines == 1:
        _work(args)
        return
    # wrong words are said once, not by every process
    device = load_config(args.config_file, args.opts, defaults=default_config()).cfg.MODEL.DEVICE
    check_gpus(device, args.num_gpus)
    on_cpu = device != "auto" and torch.device(device).type == "cpu"
    counts = (args.num_gpus, args.num_machines, args.machine_rank)
    with _without_gpus() if on_cpu else contextlib.nullcontext():
        supervise(lambda guarded: launch(guarded, *counts, args.dist_url, args=(args,)), _work)


@contextlib.contextmanager
def _without_gpus() -> Iterator[None]:
    """Processes that are started within the block see no GPUs: Detectron2 would have them talk by way of theirs."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _work(args: argparse.Namespace) -> None:
    """One process' share."""
    without_tracebacks()
    loaded = load_config(args.config_file, args.opts, defaults=default_config())
    out = Path(loaded.cfg.OUTPUT_DIR)
    if args.eval_only:
        with held_messages() as tell:
            chosen = model_to_evaluate(get_engine(Detectron2Engine.name), loaded, out, words=args.opts)
            plan = _with_results(plan_evaluation(loaded, chosen, out))
        _set_up(plan, args, loaded)
        tell()
        _report(plan, _evaluate(plan, plan.cfg.MODEL.WEIGHTS), plan.cfg.MODEL.WEIGHTS)
        return
    with contextlib.ExitStack() as held:
        _work_alone(args, loaded, out, held)


def _work_alone(args: argparse.Namespace, loaded: LoadedConfig, out: Path, held: contextlib.ExitStack) -> None:
    """Training and its report; no other run works in ``out`` until ``held`` is closed."""
    with held_messages() as tell:
        # a script of one's own may have Detectron2's flags alone
        if not getattr(args, "no_check", False):
            _on_main(lambda: _check(loaded, out))
        plan = _with_results(plan_training(loaded, None, out))
        resume, extend = args.resume, getattr(args, "extend", False)
        trained, finished = _on_main(lambda: _claim(plan, out, held, resume=resume, extend=extend))
    plan = replace(plan, trained=trained)
    _set_up(plan, args, loaded)
    tell()
    model = str(out / MODEL_FILE)
    if finished:
        logger.info("%s is complete", model)
        found = _evaluate(plan, model) if plan.cfg.DATASETS.TEST else {}
    else:
        if comm.is_main_process():
            record_dropped(out, problems_of(plan.cfg.DATASETS.TRAIN), anew=True)
        found = _train(plan, resume=resume or extend)
    _report(plan, found, model)


def _claim(
    plan: Plan, out: Path, held: contextlib.ExitStack, *, resume: bool, extend: bool
) -> tuple[TrainedDetector, bool]:
    held.enter_context(alone_in(out))
    return claim(plan, out, resume=resume, extend=extend)


def _on_main(work: Callable[[], T]) -> T:
    """What ``work()`` returns on the main process, on all of them; nothing is written before all know of it.

    Raises:
        UserError, FailureError: as on the main process.
    """
    result: T | None = None
    refusal: ScalePriorError | None = None
    if comm.is_main_process():
        try:
            result = work()
        except ScalePriorError as e:
            refusal = e
    said = comm.all_gather((result, None if refusal is None else (refusal.exit_code, refusal.wording.marked)))
    if refusal is not None:
        raise refusal
    result, refused = cast("list[tuple[T, tuple[int, str] | None]]", said)[0]
    if refused is not None:
        code, text = refused
        raise (UserError if code == UserError.exit_code else FailureError)(text)
    return result


def _check(loaded: LoadedConfig, out: Path) -> None:
    engine = get_engine(Detectron2Engine.name)
    check_detection(loaded, None, out, engine=engine, processes=comm.get_world_size()).refuse()


def _set_up(plan: Plan, args: argparse.Namespace, loaded: LoadedConfig) -> None:
    """Detectron2's own set-up, which writes ``log.txt`` and ``config.yaml`` and seeds, and our logger beside its own.

    Where a run is evaluated in its folder, ``config.yaml`` stays that of its training.

    Raises:
        FailureError: the folder cannot be written to.
    """
    out = plan.cfg.OUTPUT_DIR
    files = [Path(out) / name for name in (CONFIG_FILE, OWN_FILE)] if args.eval_only else []
    of_run = any((Path(out) / name).is_file() for name in (RUN_FILE, POINTER))  # Detectron2's own has the latter
    of_training = {path: path.read_bytes() for path in files if path.is_file() and of_run}
    try:
        setup_logger(out, distributed_rank=comm.get_rank(), name="scaleprior")
    except OSError as e:
        raise FailureError(f"cannot write OUTPUT_DIR {out}: {e.strerror or e}", hint="choose another folder") from e
    # Detectron2 opens the file to log it, and ours may be given by its name in configs/.
    default_setup(plan.cfg, argparse.Namespace(**{**vars(args), "config_file": loaded.source}))
    without_effects_in_logs()
    if not comm.is_main_process():
        return
    for path, text in of_training.items():
        write_bytes(path, text)
    if not of_training:
        write_config(plan.cfg, out)  # in place of Detectron2's, which holds our keys, too


def _train(plan: Plan, *, resume: bool) -> dict[str, Any]:
    """What Detectron2's evaluation found at the end; {} where there is nothing to evaluate on."""
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.TEST.EXPECTED_RESULTS = []  # with which Detectron2 would end the process before anything is recorded
    cfg.freeze()
    with detectron2_refuses():
        trainer = Trainer(cfg)
    trainer.trained = plan.trained
    trainer.resume_or_load(resume)
    trainer.train()
    found: Any = trainer  # Detectron2 sets the attribute when it has evaluated
    return found._last_eval_results if plan.cfg.DATASETS.TEST else {}


def _evaluate(plan: Plan, weights: str) -> dict[str, Any]:
    with detectron2_refuses():
        model = Trainer.build_model(plan.cfg)
    load_detector(model, weights)
    found = dict(Trainer.test(plan.cfg, model))
    if plan.cfg.TEST.AUG.ENABLED:
        found |= Trainer.test_with_TTA(plan.cfg, model)
    return found


def _with_results(plan: Plan) -> Plan:
    """A tool's run always leaves its row: in the run's folder, where no other place is named."""
    if plan.cfg.SCALEPRIOR.RESULTS:
        return plan
    cfg = plan.cfg.clone()
    cfg.defrost()
    cfg.SCALEPRIOR.RESULTS = str(Path(cfg.OUTPUT_DIR) / _RESULTS)
    cfg.freeze()
    return replace(plan, cfg=cfg)


def _report(plan: Plan, found: dict[str, Any], model: str) -> None:
    if not comm.is_main_process():
        return
    head = {"engine": Detectron2Engine.name, "model": model}
    sets = list(plan.cfg.DATASETS.TEST)
    if not sets:
        say_json(head, indent=None)
        return
    results = results_by_set(found, sets)
    words = results_to_dict(results)
    write_json(Path(plan.cfg.OUTPUT_DIR) / "results.json", {**head, **words})
    record_dropped(plan.cfg.OUTPUT_DIR, problems_of(sets), anew=False)
    record(plan, results, model)
    rows = {"results": plan.cfg.SCALEPRIOR.RESULTS} if any(result.has_boxes for result in results.values()) else {}
    say_json({**head, **rows, **words}, indent=None)
    verify_expected(plan.cfg, results)
